"""The three books: what Redis enforced, what the store recorded, what UsageBox bills. The same number, or here is why not."""
