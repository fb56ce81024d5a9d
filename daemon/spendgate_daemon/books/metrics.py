"""What comparing the books counts. Lines, not units: sums over different units would say nothing."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

COMPARED = Counter("spendgate_books_compared_total", "Customers whose books were compared, by end", ["end"])
DIFFERENT = Gauge("spendgate_books_different_lines", "Lines of the books with a difference, as last compared")
DRIFTING = Gauge("spendgate_books_drifting_lines", "Lines of the books with a difference that nothing explains")
REPAIRED = Counter("spendgate_books_repairs_total", "Repairs of the books", ["what"])
