"""The mirror: UsageBox → policy state and usage totals → Redis and the store.

Webhooks are hints, polling is the truth. A version only grows, and every value says where it came from.
"""
