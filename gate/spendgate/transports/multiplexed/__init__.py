"""Transports for asyncio: all tasks of an event loop share one connection to each Redis."""
