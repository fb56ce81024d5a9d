"""What passes while Redis does not answer: no more than the allowance, nothing lost, nothing counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from contextlib import ExitStack, closing, contextmanager
from time import monotonic

import msgspec
import pytest
import redis

from clusters import until
from house import DENY_UNKNOWN, credits_limit, policy_of, quota, state_of
from proxy import Proxy
from redis_servers import find_redis_servers, start_redis, stop
from requirements import require
from spendgate import Conflict, Gate, GateUnavailable, SyncGate, usage_event
from spendgate import run as runs
from spendgate.control import Control
from spendgate.errors import NotPrepared, UnknownMeter
from spendgate.keys import PARTITIONS
from spendgate.limits import Concurrency
from spendgate.outage.book import Book
from spendgate.outage.entries import Opened, entries_of
from spendgate.outage.journal import Journal
from spendgate.outage.outage import CARETAKER_TIMEOUT_SECONDS
from spendgate.policy import ReservationTerms
from spendgate.record import decode_record
from spendgate.state import Override
from spendgate.transports import connect

CARE_SECONDS = 20
POLICY = policy_of(quota(1000, outage_allowance=103))


class Site:
    """A Redis that can be stopped, and gates with journals, each a process of its own as far as slots are concerned."""

    def __init__(self, run, directory, binary) -> None:
        self.run, self.directory = run, directory
        self.process, self.url = start_redis(binary, directory)
        self.redis = redis.Redis.from_url(self.url)
        self.control = Control.from_url(self.url)
        self.gates: list[SyncGate] = []

    def prepare(self, policy=POLICY, slots=4, **fields) -> None:
        self.run(self.control.prepare(slots))
        self.run(self.control.put_default(DENY_UNKNOWN))
        self.contract(policy, **fields)

    def contract(self, policy, version=1, **fields) -> None:
        self.run(self.control.put_state("acme", state_of(policy, version, **fields), policy))

    def gate(self, journal="journals", url=None, timeout_seconds=5.0) -> SyncGate:
        """Its slot is held when this returns."""
        gate = SyncGate.from_url(url or self.url, timeout_seconds=timeout_seconds, journal=self.directory / journal)
        self.gates.append(gate)
        assert gate.outage.wait_for_care(CARE_SECONDS)
        return gate

    @contextmanager
    def outage(self, *gates):
        """Redis stops answering; the gates have found out."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            for gate in gates:
                while not gate.outage.is_open:
                    gate.outage.failed(GateUnavailable("Redis is stopped", "no"))
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
        for gate in gates:
            assert gate.outage.wait_for_care(CARE_SECONDS)
            assert gate.outage.wait_for_care(CARE_SECONDS)

    def used(self, gate) -> int:
        return gate.snapshot("acme").limits()[0].used

    def records(self):
        cursors = dict.fromkeys(range(PARTITIONS), "0-0")
        return [decode_record(raw) for _, _, raw in self.run(self.control.read_outbox(cursors, 10_000))]

    def close(self) -> None:
        for gate in self.gates:
            gate.close()
        self.redis.close()
        self.run(self.control.aclose())
        stop(self.process)


@pytest.fixture
def site(run, tmp_path):
    servers = find_redis_servers()
    require("a redis-server or valkey-server", found=bool(servers))
    made = Site(run, tmp_path, next(iter(servers.values())))
    yield made
    made.close()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


def spend(gate, quantity=10, times=1, **fields):
    return [gate.decide("acme", "tokens", quantity, **fields) for _ in range(times)]


def test_a_share_of_the_allowance_passes_and_is_settled(site):
    site.prepare()
    gate = site.gate()
    spend(gate, 100)
    with site.outage(gate):
        answers = spend(gate, 10, 4)
        assert [each.outcome for each in answers] == ["allow", "allow", "throttle", "throttle"]
        assert [each.reason for each in answers] == ["allowed_in_outage"] * 2 + ["outage"] * 2
        assert all(each.degraded and each.overshoot_bound == {"tokens-day": 100} for each in answers)
        assert answers[2].limit_id == "tokens-day"
        assert answers[2].retry_after_seconds == 1
        assert answers[2].message
        assert answers[2].unblock is not None
        assert gate.outage.status.unsettled == 2
    assert gate.outage.status.unsettled == 0
    assert site.used(gate) == 120
    settled = [record for record in site.records() if record.mode == "settle"]
    assert [record.event.event_id for record in settled] == [each.event_id for each in answers[:2]]
    assert [record.reservation.effective_at_us for record in settled] == [each.effective_at_us for each in answers[:2]]
    assert spend(gate, 10, event_id=answers[0].event_id)[0].duplicate


def test_calls_that_are_not_even_made_are_no_failures_and_wake_nobody(site, monkeypatch):
    """Otherwise the caretaker would ask a Redis that is away as often as the application asks the gate."""
    site.prepare()
    gate = site.gate()
    waiting = Gate(connect(site.url, 5.0), outage=gate.outage)
    held = gate.submit(usage_event("acme", "tokens", 60), mode="reserve")
    wake, woken = gate.outage._wake.set, []
    monkeypatch.setattr(gate.outage._wake, "set", lambda: woken.append(wake()))
    with site.outage(gate):
        spend(gate, 1, 5)
        site.run(waiting.decide("acme", "tokens", 1))
        with pytest.raises(GateUnavailable, match="asked again as soon as"):
            gate.decide("stranger", "tokens", 1)
        assert gate.release(held.reservation_id).status == "released"
        assert len(woken) == 1, "when it was found out that Redis is away"
    site.run(waiting.aclose())


def test_the_same_event_is_let_pass_once_and_other_content_is_a_conflict(site):
    site.prepare()
    gate = site.gate()
    spend(gate)
    with site.outage(gate):
        first, second = spend(gate, 10, 2, event_id="run-1")
        assert first.allowed
        assert second.allowed
        assert first.effective_at_us == second.effective_at_us
        with pytest.raises(Conflict):
            gate.decide("acme", "tokens", 11, event_id="run-1")
    assert site.used(gate) == 20


def test_nothing_passes_for_a_customer_who_was_stopped_or_is_not_known_here(site):
    site.prepare()
    gate = site.gate()
    spend(gate, 1000)
    with site.outage(gate):
        answer = spend(gate, 1)[0]
        assert answer.outcome != "allow"
        with pytest.raises(GateUnavailable):
            gate.decide("somebody else", "tokens", 1)


@pytest.mark.parametrize("status", ["suspended", "cancelled", "unknown"])
def test_nothing_passes_for_a_customer_without_a_contract_in_force(site, status):
    site.prepare(status=status)
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        assert not spend(gate, 1)[0].allowed


def test_a_stop_by_hand_holds_in_an_outage(site):
    site.prepare()
    gate = site.gate()
    stop_forever = Override("o1", "stop", until_us=9_000_000_000_000_000)
    site.run(site.control.put_overrides("acme", [stop_forever], 1))
    spend(gate, 1)
    with site.outage(gate):
        assert spend(gate, 1)[0].reason == "override_stop"


def test_nothing_passes_without_a_slot(site):
    site.prepare(slots=1)
    first, second = site.gate(), site.gate()
    spend(first)
    spend(second)
    assert (first.outage.status.slot, second.outage.status.slot) == (1, 0)
    with site.outage(first, second):
        assert spend(first, 103)[0].allowed
        assert spend(second, 1)[0].reason == "outage"


def test_redis_decides_again_even_where_its_slots_are_gone(site):
    site.prepare()
    gate = site.gate()
    site.redis.delete("sg:slots")
    while not gate.outage.is_open:
        gate.outage.failed(GateUnavailable("Redis was stopped", "no"))
    assert gate.outage.wait_for_care(CARE_SECONDS)
    assert not gate.outage.is_open
    assert not spend(gate)[0].degraded


def test_the_number_of_slots_stays(site):
    site.prepare(slots=4)
    with pytest.raises(NotPrepared, match="4 slots"):
        site.run(site.control.prepare(5))


def test_what_was_let_pass_survives_the_process(site):
    """Another process finds the journal: the share is used, and what is in it gets settled."""
    site.prepare()
    program = """
        import os, signal, sys
        import spendgate.outage
        from spendgate import GateUnavailable, SyncGate
        spendgate.outage.JOURNAL_SECONDS = 20
        gate = SyncGate.from_url(sys.argv[1], timeout_seconds=5, journal=sys.argv[2])
        assert gate.outage.wait_for_care(20)
        gate.decide("acme", "tokens", 100)
        os.kill(int(sys.argv[3]), signal.SIGSTOP)
        while not gate.outage.is_open:
            gate.outage.failed(GateUnavailable("stopped", "no"))
        print(gate.decide("acme", "tokens", 20, event_id="run-1").outcome, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), site.url, site.directory / "journals"]
    ran = subprocess.run([*command, str(site.process.pid)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == "allow\n", ran.stderr
    assert ran.returncode == -signal.SIGKILL
    os.kill(site.process.pid, signal.SIGCONT)
    gate = site.gate()
    assert gate.outage.wait_for_care(CARE_SECONDS)
    assert site.used(gate) == 120
    assert gate.decide("acme", "tokens", 20, event_id="run-1").duplicate


def test_a_used_share_stays_used_for_the_next_process(site):
    site.prepare()
    gate = site.gate()
    spend(gate)
    site.process.send_signal(signal.SIGSTOP)
    while not gate.outage.is_open:
        gate.outage.failed(GateUnavailable("Redis is stopped", "no"))
    assert spend(gate, 20)[0].allowed
    gate.close()
    journal = Journal.open_numbered(site.directory / "journals", 1)
    held = [entry for entry in journal.entries if type(entry).__name__ == "Granted"]
    journal.close()
    assert [each.event.quantities for each in held] == [{"tokens": 20}]
    site.process.send_signal(signal.SIGCONT)


def test_an_answer_that_was_lost_is_not_counted_twice(site):
    """Redis executed it, nobody heard of it, and the process let it pass by itself."""
    site.prepare()
    with closing(Proxy(port_of(site.url))) as proxy:
        gate = site.gate(url=f"redis://127.0.0.1:{proxy.port}/0")
        spend(gate)
        proxy.replies.drop_next()
        answer = spend(gate, 20, event_id="run-1")[0]
        assert answer.allowed
        assert answer.degraded
        assert gate.outage.wait_for_care(CARE_SECONDS)
        assert gate.outage.wait_for_care(CARE_SECONDS)
        assert gate.outage.status.unsettled == 0
        assert site.used(gate) == 30
        assert not [record for record in site.records() if record.mode == "settle"]


def test_where_redis_may_have_let_it_pass_nobody_says_that_it_did_not(site):
    site.prepare()
    with closing(Proxy(port_of(site.url))) as proxy:
        gate = site.gate(url=f"redis://127.0.0.1:{proxy.port}/0")
        spend(gate)
        proxy.replies.drop_next()
        with pytest.raises(GateUnavailable) as failure:
            spend(gate, 500, event_id="run-1")
        assert failure.value.executed == "unknown"
        assert spend(gate, 500, event_id="run-1")[0].duplicate


def test_a_share_comes_back_only_while_the_limit_has_room(site):
    site.prepare()
    gate = site.gate()
    spend(gate, 985)
    with site.outage(gate):
        assert [each.allowed for each in spend(gate, 10, 2)] == [True, True]
    assert site.used(gate) == 1005  # the first of them fitted, the second did not
    site.contract(policy_of(quota(2000, outage_allowance=103)), version=2)
    spend(gate, 1)
    with site.outage(gate):
        assert [each.allowed for each in spend(gate, 5, 4)] == [True, True, True, False]


def test_all_slots_together_stay_within_the_allowance(site):
    site.prepare(slots=3)
    gates = [site.gate(), site.gate(), site.gate()]
    spend(gates[0], 1000)
    site.contract(policy_of(quota(1001, outage_allowance=100)), version=2)
    for gate in gates:
        gate.decide("acme", "tokens", 1, dry_run=False)
    for _ in range(2):
        with site.outage(*gates):
            for gate in gates:
                spend(gate, 1, 40)
    assert 1001 <= site.used(gates[0]) <= 1001 + 3 * (100 // 3)


def test_credits_pass_by_their_own_allowance(site):
    site.prepare(policy_of(credits_limit(outage_allowance=400)), granted_micro_credits=10_000)
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        assert [each.allowed for each in spend(gate, 5, 3)] == [True, True, False]
    assert site.used(gate) == 110


def test_a_limit_without_allowance_lets_nothing_pass(site):
    site.prepare(policy_of(quota(1000)))
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        answer = spend(gate, 1)[0]
        assert answer.reason == "outage"
        assert answer.overshoot_bound == {"tokens-day": 0}


def test_usage_that_already_happened_is_recorded_in_an_outage_too(site):
    site.prepare(policy_of(quota(1000)))
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        answer = gate.record("acme", "tokens", 2_000)
        assert answer.reason == "recorded"
        assert answer.degraded
    assert site.used(gate) == 2_001


def test_a_run_is_reserved_and_committed_in_an_outage(site):
    site.prepare(policy_of(quota(1000, outage_allowance=400), Concurrency("open", ("tokens",), max=8)))
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        with gate.reserve("acme", "tokens", 60) as run:
            assert run.decision.degraded
            run.commit(25)
        assert run.finished.committed == {"tokens": 25}
        with pytest.raises(UnknownMeter, match=r"quantities\.token must be"), gate.reserve("acme", "tokens", 60) as run:
            run.add(5, "token")
        gate.release(run.reservation_id)
        with gate.reserve("acme", "tokens", 70) as run:
            run.commit(70)
        assert not spend(gate, 10)[0].allowed
    assert site.used(gate) == 96
    assert gate.snapshot("acme").limits()[1].reserved == 0
    assert gate.outage.status.unsettled == 0


def test_a_run_reserved_in_an_outage_is_committed_when_redis_is_back(site):
    site.prepare(policy_of(quota(1000, outage_allowance=400)))
    gate = site.gate()
    spend(gate, 1)
    with site.outage(gate):
        reserved = gate.submit(usage_event("acme", "tokens", 60), mode="reserve")
    assert gate.commit(reserved.reservation_id, 25).committed == {"tokens": 25}
    assert gate.commit(reserved.reservation_id, 25).duplicate
    assert site.used(gate) == 26
    assert gate.outage.status.unsettled == 0


@pytest.mark.parametrize(("at_deadline", "used"), [("release", 25), ("commit", 60)])
def test_a_run_of_an_outage_that_outlives_its_reservation_is_counted(site, at_deadline, used):
    terms = ReservationTerms(lifetime_us=1, grace_us=0, at_deadline=at_deadline)
    site.prepare(policy_of(quota(1000, outage_allowance=400), reservations=terms))
    gate = site.gate()
    spend(gate, 1)
    with ExitStack() as stack:
        with site.outage(gate):
            run = stack.enter_context(gate.reserve("acme", "tokens", 60))
        assert gate.outage.status.unsettled == 0, "the caretaker has ended it"
        run.add(25)
    assert (run.finished.status, run.finished.committed) == ("expired", {"tokens": used})
    assert site.used(gate) == 1 + used


@pytest.mark.parametrize(
    ("at_deadline", "action", "used"),
    [("release", "commit", 25), ("commit", "commit", 60), ("release", "release", 0), ("commit", "release", 60)],
)
def test_an_end_that_redis_hears_of_after_the_deadline_counts_what_was_used(site, at_deadline, action, used):
    terms = ReservationTerms(lifetime_us=500_000, grace_us=0, at_deadline=at_deadline)
    site.prepare(policy_of(quota(1000, outage_allowance=400), reservations=terms))
    gate = site.gate()
    held = gate.submit(usage_event("acme", "tokens", 60), mode="reserve")
    with site.outage(gate):
        spend(gate, 1, 2)
        finished = gate.commit(held.reservation_id, 25) if action == "commit" else gate.release(held.reservation_id)
        assert finished.status == ("committed" if action == "commit" else "released")
        spend(gate, 1, 2)
        until(lambda: gate.outage._slot.clock_us() > held.effective_at_us + 500_000)
    assert site.used(gate) == used + 4
    assert (gate.outage.status.unsettled, gate.outage.status.refused) == (0, 0)
    late = [record for record in site.records() if record.event and record.event.event_id.startswith("late-")]
    assert [(each.mode, each.event.quantities) for each in late] == (
        [("settle", {"tokens": 25})] if (at_deadline, action) == ("release", "commit") else []
    )
    assert gate.snapshot("acme").limits()[0].reserved == 0


def test_a_torn_last_entry_is_one_that_nobody_was_answered_for(site):
    site.prepare()
    gate = site.gate()
    spend(gate)
    site.process.send_signal(signal.SIGSTOP)
    while not gate.outage.is_open:
        gate.outage.failed(GateUnavailable("Redis is stopped", "no"))
    spend(gate, 10, 2)
    gate.close()
    path = site.directory / "journals" / "0001.journal"
    path.write_bytes(path.read_bytes()[:-3])
    site.process.send_signal(signal.SIGCONT)
    again = site.gate()
    assert again.outage.wait_for_care(CARE_SECONDS)
    assert site.used(again) == 20


def test_a_journal_that_cannot_be_written_lets_nothing_pass(site, monkeypatch):
    site.prepare()
    gate = site.gate()
    spend(gate)

    def no_space(_file):
        raise OSError(28, "No space left on device")

    with site.outage(gate):
        monkeypatch.setattr("spendgate.outage.journal.os.fsync", no_space)
        for _ in range(2):
            with pytest.raises(GateUnavailable, match="No space left"):
                spend(gate, 10, event_id="run-1")
        monkeypatch.undo()
        assert b"run-1" not in (site.directory / "journals" / "0001.journal").read_bytes()
        assert spend(gate, 10, event_id="run-1")[0].allowed
        assert b"run-1" in (site.directory / "journals" / "0001.journal").read_bytes()
    assert site.used(gate) == 20


def test_a_folder_that_can_hold_no_journal_is_named(site):
    site.prepare()
    (site.directory / "text").write_text("no folder")
    with pytest.raises(OSError, match=r"no journal of outages can be kept there.*/text'$"):
        site.gate(journal="text")
    (site.directory / "odd" / "0001.journal").mkdir(parents=True)
    with pytest.raises(OSError, match=r"0001\.journal.*/odd'$"):
        site.gate(journal="odd")


def test_journals_that_cannot_be_read_are_told_and_hold_up_nobody(site, caplog):
    site.prepare()
    journals = site.directory / "journals"
    (journals / "0007.journal").mkdir(parents=True)
    payload = msgspec.msgpack.encode(["of a later version", 1])
    (journals / "0008.journal").write_bytes(struct.pack(">II", len(payload), zlib.crc32(payload)) + payload)
    first = site.gate()
    spend(first, 1)
    with site.outage():
        while not first.outage.is_open:
            first.outage.failed(GateUnavailable("Redis is stopped", "no"))
        assert spend(first, 10)[0].allowed
        first.close()
    (journals / "0001.journal").rename(journals / "0009.journal")
    second = site.gate()
    assert second.outage.wait_for_care(CARE_SECONDS)
    assert site.used(second) == 11, "what is in the last one is settled"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4, "by each gate once, though it looks again and again"
    assert [sum(name in message for message in told) for name in ("0007.journal", "0008.journal")] == [2, 2]


def test_closing_does_not_wait_for_a_redis_that_hangs_nor_for_all_that_is_left(site, tmp_path):
    site.prepare()
    gate = site.gate()
    site.process.send_signal(signal.SIGSTOP)
    began = monotonic()
    gate.close()
    assert monotonic() - began < 4 * CARETAKER_TIMEOUT_SECONDS
    site.process.send_signal(signal.SIGCONT)
    book = Book.open_free(tmp_path / "left")
    for number in range(5):
        book.grant(usage_event("acme", "tokens", 1, event_id=f"run-{number}"), "decide", number, POLICY, {})
    answers = iter([True, True, False])
    assert book.settle(Debiting(), lambda *_: POLICY, 0, lambda: next(answers)) == set()
    assert book.unsettled == 3
    book.close()


class Debiting:
    """A Redis that debits whatever it is told of."""

    def run(self, _script, _key, _arguments):
        return [b"debited", b"1-1", b"ok", 1]


FORKED = """
    import os, signal, sys
    from spendgate import GateUnavailable, SyncGate
    gate = SyncGate.from_url(sys.argv[1], timeout_seconds=1, journal=sys.argv[2])
    assert gate.outage.wait_for_care(20)
    assert gate.decide("acme", "tokens", 1).allowed
    child = os.fork()
    if child == 0:
        assert gate.decide("acme", "tokens", 1).allowed
        os.kill(int(sys.argv[3]), signal.SIGSTOP)
        failed = 0
        for _ in range(5):
            try:
                gate.decide("acme", "tokens", 1)
            except GateUnavailable:
                failed += 1
        os.kill(int(sys.argv[3]), signal.SIGCONT)
        assert failed == 5 and not gate.outage.is_open, failed
        while True:
            try:
                allowed = gate.decide("acme", "tokens", 1, event_id="back").allowed
                break
            except GateUnavailable:
                pass
        gate.close()
        os._exit(0 if allowed else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert gate.outage.wait_for_care(20)
    gate.close()
"""


def test_a_forked_child_asks_redis_and_lets_nothing_pass_of_its_parents_share(site):
    site.prepare()
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKED)]
    arguments = [site.url, site.directory / "journals", str(site.process.pid)]
    ran = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [entry for entry in journal_entries(site) if not isinstance(entry, Opened)] == []


class SlowDisk:
    """Syncs only when it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.asked, self.goes_on, self._fsync = threading.Event(), threading.Event(), os.fsync
        monkeypatch.setattr("spendgate.outage.journal.os.fsync", self.fsync)

    def fsync(self, file) -> None:
        self.asked.set()
        assert self.goes_on.wait(CARE_SECONDS)
        self._fsync(file)


def test_a_call_that_is_cancelled_while_it_waits_for_the_disk_counts_once(site, monkeypatch):
    site.prepare()
    gate = site.gate()
    spend(gate, 1)
    waiting = Gate(connect(site.url, 5.0), outage=gate.outage)

    async def cancelled():
        task = asyncio.create_task(waiting.decide("acme", "tokens", 10, event_id="run-1"))
        assert await asyncio.to_thread(disk.asked.wait, CARE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        disk.goes_on.set()
        return task.cancelled(), await waiting.decide("acme", "tokens", 10, event_id="run-1")

    with site.outage(gate):
        disk = SlowDisk(monkeypatch)
        was_cancelled, again = site.run(cancelled())
        assert (was_cancelled, again.outcome) == (True, "allow")
    site.run(waiting.aclose())
    with SyncGate.from_url(site.url) as plain:
        assert site.used(plain) == 11


def test_a_run_that_is_cancelled_while_it_waits_for_the_disk_holds_nothing(site, monkeypatch):
    site.prepare(policy_of(quota(1000, outage_allowance=400), Concurrency("open", ("tokens",), max=8)))
    gate = site.gate()
    spend(gate, 1)
    waiting = Gate(connect(site.url, 5.0), outage=gate.outage)

    async def serve():
        async with waiting.reserve("acme", "tokens", 100):
            pytest.fail("it was cancelled before")

    async def cancelled():
        task = asyncio.create_task(serve())
        assert await asyncio.to_thread(disk.asked.wait, CARE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        disk.goes_on.set()
        await asyncio.gather(*runs._asked)
        return task.cancelled()

    with site.outage(gate):
        disk = SlowDisk(monkeypatch)
        assert site.run(cancelled())
        assert spend(gate, 100)[0].allowed, "the share is whole again"
    site.run(waiting.aclose())
    with SyncGate.from_url(site.url) as plain:
        quota_line, open_line = plain.snapshot("acme").limits()
        assert (quota_line.used, quota_line.reserved, open_line.reserved) == (101, 0, 0)


LEFT_BEHIND = """
    import os, pathlib, sys
    from spendgate import SyncGate
    from spendgate.outage.journal import Journal
    folder = pathlib.Path(sys.argv[2])
    gate = SyncGate.from_url(sys.argv[1], timeout_seconds=1, journal=folder)
    assert Journal.open_numbered(folder, 1) is None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    gate.close()
    Journal.open_numbered(folder, 1).close()
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_does_not_keep_its_parents_journal_from_others(site):
    site.prepare()
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(LEFT_BEHIND), site.url, site.directory / "journals"]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_url_that_cannot_be_used_leaves_no_journal(tmp_path):
    for gate in (Gate, SyncGate):
        with pytest.raises(ValueError, match="starts with one of"):
            gate.from_url("http://127.0.0.1", journal=tmp_path / "journals")
    assert list(tmp_path.iterdir()) == []


def journal_entries(site) -> list:
    raw = (site.directory / "journals" / "0001.journal").read_bytes()
    return [entry for _, entry in entries_of(raw)]


def test_what_cannot_be_debited_is_told_in_full_and_stays_in_the_journal(site, caplog, monkeypatch):
    site.prepare()
    gate = site.gate()
    spend(gate, 1)
    monkeypatch.setattr("spendgate.outage.book.COMPACTED_ABOVE_BYTES", 0)
    with site.outage(gate):
        assert spend(gate, 7, event_id="run-1")[0].allowed
        monkeypatch.setattr("spendgate.outage.book._problem_of", lambda _: "counter_full")
    assert gate.outage.status.refused == 1
    assert "(counter_full): customer acme, event run-1, {'tokens': 7}" in caplog.text
    gate.close()
    assert {type(entry).__name__ for entry in journal_entries(site)} == {"Opened", "Granted", "Settled"}


def test_a_slot_is_taken_over_for_later_periods_only(site):
    """The process that held it may still be at work where this Redis can't see it."""
    site.prepare(slots=1)
    gate = site.gate("one machine")
    gate.outage.close()
    seconds, _ = site.redis.time()
    expired_us = (seconds - 3600) * 1_000_000
    site.redis.hset("sg:slots", "slot:1", f"other {expired_us} 0")
    second = site.gate("another machine")
    assert second.outage.status.slot == 1
    spend(second, 1)
    with site.outage(second):
        assert spend(second, 1)[0].reason == "outage"  # today began before the other's time was over


def test_a_backlog_that_the_store_does_not_keep_up_with_is_an_outage(site):
    site.prepare()
    gate = site.gate()
    spend(gate, 1)
    for partition in range(PARTITIONS):
        site.redis.hset(f"sg:{{p{partition:03d}}}:meta", "full_at", 0)
    assert [each.outcome for each in spend(gate, 10, 3)] == ["allow", "allow", "throttle"]
    for partition in range(PARTITIONS):
        site.redis.hset(f"sg:{{p{partition:03d}}}:meta", "full_at", 10**6)
    assert gate.outage.wait_for_care(CARE_SECONDS)
    assert gate.outage.wait_for_care(CARE_SECONDS)
    assert site.used(gate) == 21
