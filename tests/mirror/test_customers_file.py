"""`customers.yaml`: the same terms as over HTTP, and every bad customer told by its line."""

from __future__ import annotations

import pytest

from spendgate.limits.check import Grant
from spendgate_daemon.documents import DocumentError
from spendgate_daemon.mirror.customers_file import read_customers

GOOD = """# Ours
customers:
  acme:
    name: Acme Inc.
    plan: prepaid
    caps: {tokens.output: 5_000}
    timezone: Asia/Tokyo
    billing_anchor_day: 15
    grants:
      - {id: gift, credits: 7}
      - {id: spring, credits: 50, expires_at: 2027-01-01T00:00:00Z, priority: 2}
  1001: {plan: basic, status: suspended}
"""


def test_a_file_says_what_the_api_takes():
    acme, other = read_customers(GOOD)
    assert (acme.customer_id, acme.name, acme.caps) == ("acme", "Acme Inc.", {"tokens.output": 5000})
    assert (acme.timezone, acme.billing_anchor_day) == ("Asia/Tokyo", 15)
    assert acme.grants == (Grant("gift", 7_000_000), Grant("spring", 50_000_000, 1_798_761_600_000_000, 2))
    assert (other.customer_id, other.name, other.status, other.grants) == ("1001", "1001", "suspended", ())


@pytest.mark.parametrize("text", ["", "# nobody yet\n\n", "customers:\n", "customers: {}\n"])
def test_a_file_without_customers_is_fine(text):
    assert read_customers(text) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "words"),
    [
        ("credits: 50", "credits: -1", 11, "customers.acme.grants[1].credits", "a whole number"),
        ("id: spring", "id: gift", 11, "customers.acme.grants[1].id", "no other grant"),
        ("Asia/Tokyo", "Asia/Edo", 7, "customers.acme.timezone", "IANA"),
        ("day: 15", "day: 32", 8, "customers.acme.billing_anchor_day", "from 1 to 31"),
        ("5_000", "lots", 6, "customers.acme.caps.tokens.output", "a whole number"),
        ("suspended", "away", 12, "customers.1001.status", "active, suspended, cancelled"),
        ("plan: prepaid", "plann: prepaid", 5, "customers.acme.plann", "absent"),
        ("{plan: basic, status: suspended}", "basic", 12, "customers.1001", "an object"),
        ("customers:", "clients:", 1, "", "by customer id"),
        ("1001:", "acme:", 12, "customers.acme", "twice; first on line 3"),
    ],
)
def test_a_fault_is_told_by_line_and_field(old, new, line, field, words):
    with pytest.raises(DocumentError) as caught:
        read_customers(GOOD.replace(old, new, 1))
    [fault] = caught.value.faults
    assert (fault.line, fault.field) == (line, field)
    assert words in fault.message


def test_every_bad_customer_is_told_at_once():
    with pytest.raises(DocumentError) as caught:
        read_customers("customers: {a: {}, b: {plan: x}, c: {plan: y, caps: 7}}")
    assert [fault.field for fault in caught.value.faults] == ["customers.a.plan", "customers.c.caps"]
