"""Keys: remembered for a moment, revoked within seconds, read once however many callers wait."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from spendgate_daemon.api.auth import FRESH_SECONDS, OUTAGE_SECONDS, Authenticator
from spendgate_daemon.api.problems import Problem
from spendgate_daemon.store import Store

SECOND_US = 1_000_000


class Books:
    """The store's keys; it counts reads, and fails when told to."""

    def __init__(self, keys) -> None:
        self.keys, self.reads, self.failing, self.lock = keys, 0, False, threading.Lock()

    def get(self, key_id):
        with self.lock:
            self.reads += 1
        if self.failing:
            raise OperationalError("select", {}, Exception("gone"))
        return self.keys.get(key_id)


class Desk:
    def __init__(self, run, store) -> None:
        self.run, self.keys, self.books = run, store.keys, Books(store.keys)
        self.now_us = 1_000_000 * SECOND_US
        self.authenticator = Authenticator(self.books, lambda: self.now_us)

    def ask(self, key):
        """The principal's name, or the status of the refusal."""
        try:
            return self.run(self.authenticator.authenticate(f"Bearer {key}")).name
        except Problem as problem:
            return problem.status

    def pass_seconds(self, seconds):
        self.now_us += int(seconds * SECOND_US)


@pytest.fixture
def desk(run, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'keys.db'}")
    yield Desk(run, store)
    store.close()


def test_a_revoked_key_stops_working_within_seconds(desk):
    key = desk.keys.create("ci", ["decide"], desk.now_us)
    assert desk.ask(key) == "ci"
    desk.keys.revoke(key.split("_")[1], desk.now_us)
    desk.pass_seconds(FRESH_SECONDS)
    assert desk.ask(key) == 401


def test_an_expired_key_stops_working_at_once(desk):
    key = desk.keys.create("ci", ["decide"], desk.now_us, expires_at_us=desk.now_us + SECOND_US)
    assert desk.ask(key) == "ci"
    desk.pass_seconds(1)
    assert desk.ask(key) == 401


def test_a_key_is_read_once_for_all_who_wait(desk):
    key = desk.keys.create("ci", ["decide"], desk.now_us)

    async def crowd():
        asks = (desk.authenticator.authenticate(f"Bearer {key}") for _ in range(50))
        return {principal.name for principal in await asyncio.gather(*asks)}

    assert desk.run(crowd()) == {"ci"}
    assert desk.books.reads == 1


def test_the_right_id_with_another_secret_is_refused(desk):
    key = desk.keys.create("ci", ["decide"], desk.now_us)
    assert desk.ask(key[:-1] + ("A" if key[-1] != "A" else "B")) == 401
    assert desk.ask(key + "A") == 401
    assert desk.ask(key[:-1]) == 401


def test_a_clock_that_goes_back_keeps_no_key_fresh(desk):
    key = desk.keys.create("ci", ["decide"], 0)
    assert desk.ask(key) == "ci"
    desk.keys.revoke(key.split("_")[1], 1)
    desk.pass_seconds(-3600)
    assert desk.ask(key) == 401


def test_keys_outlive_an_outage_of_the_store_but_not_for_ever(desk):
    key, other = (desk.keys.create(name, ["decide"], desk.now_us) for name in ("ci", "new"))
    assert desk.ask(key) == "ci"
    desk.books.failing = True
    desk.pass_seconds(FRESH_SECONDS + 1)
    assert desk.ask(key) == "ci"
    reads = desk.books.reads
    assert desk.ask(key) == "ci"
    assert desk.books.reads == reads, "a store that just failed is not asked for every request"
    assert desk.ask(other) == 503, "never seen, so nothing is known of it"
    desk.pass_seconds(OUTAGE_SECONDS)
    assert desk.ask(key) == 503
    desk.books.failing = False
    assert desk.ask(key) == "ci"
