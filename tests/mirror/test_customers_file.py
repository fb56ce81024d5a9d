"""`customers.yaml`: the same terms as over HTTP, and every bad customer told by its line."""

from __future__ import annotations

import os

import pytest
from structlog.testing import capture_logs

from spendgate.errors import GateUnavailable
from spendgate.limits.check import Grant
from spendgate_daemon.documents import DocumentError
from spendgate_daemon.mirror.customers_file import CustomersFile, read_customers

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


ACME = "customers:\n  acme: {name: Acme, plan: basic, caps: {tokens: 100}}\n"
OTHER = "  other: {name: Other, plan: basic, caps: {tokens: 1}}\n"


@pytest.fixture
def file(world, tmp_path):
    """A customers file, and what writes it with another time of modification each time."""
    file = CustomersFile(tmp_path / "customers.yaml", world.applier)
    writes = iter(range(1_000_000_000, 2_000_000_000))

    def write(text):
        file._path.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(file._path, (next(writes), next(writes)))

    file.write = write
    return file


def look(world, file, times=3):
    return [world.run(file.read_once()) for _ in range(times)]


def statuses(world):
    known = world.store.customers.known(["acme", "other"])
    assert all(world.snapshot(each).state.status == customer.status for each, customer in known.items())
    return {each: customer.status for each, customer in known.items()}


def test_a_change_survives_a_moment_without_redis(world, file):
    class Away:
        """The applier while Redis is away."""

        book = world.applier.book

        async def apply(self, source, terms):
            raise GateUnavailable("away")

    file.write(ACME)
    file._applier = Away()
    with pytest.raises(GateUnavailable):
        world.run(file.read_once())
    file._applier = world.applier
    assert look(world, file) == [1, 0, 0]
    assert statuses(world) == {"acme": "active"}


def test_a_customer_whose_plan_comes_later_comes_with_it(world, file):
    file.write(ACME.replace("basic", "gold") + OTHER)
    assert look(world, file) == [1, 0, 0]
    gold = "  gold:\n    limits:\n      - {kind: quota, id: month, meter: tokens, cap: contract, period: month}\n"
    world.change_document("  prepaid:", gold + "  prepaid:")
    assert look(world, file) == [1, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}


def test_who_is_gone_from_the_file_is_cancelled_and_who_is_named_again_is_back(world, file):
    file.write(ACME + OTHER)
    look(world, file)
    file.write(ACME)
    assert look(world, file) == [0, 1, 0]
    assert statuses(world) == {"acme": "active", "other": "cancelled"}
    file.write(ACME + OTHER)
    assert look(world, file) == [1, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}


def test_who_went_while_no_daemon_looked_is_cancelled_by_the_next_one(world, file):
    file.write(ACME + OTHER)
    look(world, file)
    file.write(ACME)
    assert look(world, CustomersFile(file._path, world.applier)) == [0, 1, 0]
    assert statuses(world)["other"] == "cancelled"


def test_a_file_that_turned_bad_before_the_second_look_cancels_nobody(world, file):
    file.write(ACME + OTHER)
    look(world, file)
    file.write(ACME)
    look(world, file, 1)
    file.write("customers: [what")
    assert look(world, file) == [0, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}


def test_a_bad_file_is_told_once(world, file):
    file.write("customers: [what")
    with capture_logs() as logs:
        look(world, file)
    assert [each["event"] for each in logs] == ["customers file refused"]


@pytest.mark.parametrize("text", ["", "customers: {}\n", "customers: [what", ACME + "  other: {}\n", b"\xff", None])
def test_a_file_that_is_empty_bad_or_gone_cancels_nobody(world, file, text):
    file.write(ACME + OTHER)
    look(world, file)
    file.write(text) if text is not None else file._path.unlink()
    assert look(world, file) == [0, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}


def test_a_file_that_is_read_while_it_is_written_cancels_nobody(world, file):
    file.write(ACME + OTHER)
    look(world, file)
    file.write(ACME)
    assert look(world, file, times=1) == [0]
    file.write(ACME + OTHER)
    assert look(world, file) == [0, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}


def test_only_customers_of_the_file_are_its_to_cancel(world, file):
    file.write(ACME + OTHER)
    look(world, file)
    world.put("other", plan="basic", caps={"tokens": 2})
    world.run(world.poll.poll_once())
    file.write(ACME)
    assert look(world, file) == [0, 0, 0]
    assert statuses(world) == {"acme": "active", "other": "active"}
