"""Runs whose task is cancelled, on a real Redis: nothing stays reserved, and what was used is committed.

Tasks are cancelled again at each step of the loop, as anyio's cancel scopes do it to whoever serves a client that is gone.
"""

from __future__ import annotations

import asyncio

import pytest

from house import policy_of, quota
from spendgate import Denied, Gate
from spendgate import run as runs


@pytest.fixture
def contract(house):
    house.contract(policy_of(quota(1000)))
    return house


async def cancel_at_each_step(task, after_steps=0):
    for _ in range(after_steps):
        await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*runs._asked, return_exceptions=True)
    return task.cancelled()


def numbers(house):
    line = house.run(house.gate.snapshot("acme")).limits()[0]
    return line.used, line.reserved


def test_a_run_that_is_cancelled_commits_what_was_counted(contract):
    async def cancelled():
        reached = asyncio.Event()

        async def serve():
            async with contract.gate.reserve("acme", "tokens", 100) as run:
                run.add(7)
                reached.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await reached.wait()
        return await cancel_at_each_step(task)

    assert contract.run(cancelled())
    assert numbers(contract) == (7, 0)
    assert contract.records()[-1].result.reason == "committed"


@pytest.mark.parametrize("steps", range(10))
def test_a_run_that_is_cancelled_while_it_is_asked_for_leaves_nothing_reserved(contract, steps):
    """Wherever the task is: before Redis has answered, between its answers, or already in the block."""

    async def cancelled():
        async with Gate.from_url(contract.url, timeout_seconds=5) as gate:

            async def serve():
                async with gate.reserve("acme", "tokens", 100):
                    await asyncio.Event().wait()

            return await cancel_at_each_step(asyncio.create_task(serve()), steps)

    assert contract.run(cancelled())
    assert numbers(contract) == (0, 0)


def test_a_retry_that_is_cancelled_does_not_release_what_the_first_holds(contract):
    async def first_and_retry():
        async with contract.gate.reserve("acme", "tokens", 100, event_id="e-1") as run:
            run.add(3)

            async def serve():
                async with contract.gate.reserve("acme", "tokens", 100, event_id="e-1"):
                    pytest.fail("it was cancelled before it began")

            assert await cancel_at_each_step(asyncio.create_task(serve()), 1)
            held = (await contract.gate.snapshot("acme")).limits()[0].reserved
        return held, run.finished.status

    assert contract.run(first_and_retry()) == (100, "committed")
    assert numbers(contract) == (3, 0)


def test_a_run_that_does_not_fit_is_denied_all_the_same(contract):
    async def asked():
        async with contract.gate.reserve("acme", "tokens", 1001):
            pytest.fail("it does not fit")

    with pytest.raises(Denied):
        contract.run(asked())
