"""The mirror of some thousand customers: all new, all changed, nothing changed, and changes while everybody is read again.

`make bench ARGS="--only mirror"` does it with a hundred thousand, against the clock.
"""

from __future__ import annotations

import asyncio

import pytest

from mirror_world import now_us
from spendgate_daemon.mirror.resync import Resync
from spendgate_daemon.sandbox.book import Book
from spendgate_daemon.sandbox.customers import CustomerChange, Customers
from spendgate_daemon.sandbox.webhooks import WebhookSender

SIZE = 3_000


@pytest.fixture
def contracts(world, tmp_path):
    """Everybody's contracts, changed in the sandbox's file; some share a cap, some have their own."""
    book = Book(tmp_path / "book.sqlite")
    customers = Customers(book, WebhookSender(book, None, None, lambda: 0))

    def sign(round_number):
        caps = {f"c{number}": cap(number, round_number) for number in range(SIZE)}
        customers.change_all({each: CustomerChange(plan="basic", caps={"tokens": caps[each]}) for each in caps})
        return caps

    yield sign
    book.close()


def cap(number, round_number):
    return round_number * 10_000 + (number if number % 2 else number % 20)


def enforced(world):
    ids = [f"c{number}" for number in range(SIZE)]
    snapshots = [world.run(world.gate.snapshots(ids[first : first + 200])) for first in range(0, SIZE, 200)]
    return {each.customer_id: each.policy.limits[0].cap for part in snapshots for each in part}


def test_all_new_all_changed_and_nothing_changed(world, contracts):
    for round_number in (1, 2):
        caps = contracts(round_number)
        assert world.run(world.poll.poll_once()) == SIZE
        assert enforced(world) == caps
    assert world.run(world.poll.poll_once()) == 0
    assert world.run(world.resync.run_once()) == 0
    known = world.store.customers.known(list(caps))
    assert {each: customer.caps["tokens"] for each, customer in known.items()} == caps


class Slow:
    """A UsageBox whose first answer is on its way until somebody lets it in."""

    def __init__(self, usagebox):
        self._usagebox = usagebox
        self.fetched, self.released = asyncio.Event(), asyncio.Event()

    async def policies(self, cursor):
        answer = await self._usagebox.policies(cursor)
        if cursor is None:
            self.fetched.set()
            await self.released.wait()
        return answer


def test_a_resync_stops_no_change_and_its_old_answers_undo_none(world, contracts):
    contracts(1)
    world.run(world.poll.poll_once())

    async def scenario():
        slow = Slow(world.usagebox)
        reading = asyncio.create_task(Resync(world.store, slow, world.applier, now_us).run_once())
        await slow.fetched.wait()
        world.put("c1", caps={"tokens": 5})
        assert await world.poll.poll_once() == 1, "a resync is under way"
        assert (await world.gate.decide("c1", "tokens", 6)).outcome == "stop"
        slow.released.set()
        return await reading

    assert world.run(scenario()) == 0, "its answer about c1 is older than what is in force"
    assert world.snapshot("c1").policy.limits[0].cap == 5
    assert world.store.customers.get("c1").customer.caps == {"tokens": 5}
