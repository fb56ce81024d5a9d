"""Restoring what Redis lost from the store: a tail, by itself; everything, by `spendgate rebuild`."""
