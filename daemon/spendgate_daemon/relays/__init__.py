"""Relays: what happened goes from Redis to the store, and from the store to everyone else.

Only the store relay reads Redis. Every relay is an object whose `run_once` does a bounded piece of work and tells how
much it was, so that tests drive them without a clock and the daemon decides when.
"""
