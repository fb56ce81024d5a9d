"""Transports for threads: each thread has its own connection to each Redis, and waits for its own replies."""
