"""`spendgate replay`: stored decisions made again, from a store that a real Redis filled."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
import sqlalchemy as sa

from house import House, policy_of, quota, rate
from spendgate.engines import ENGINES, engine_of
from spendgate.errors import UnknownEngine
from spendgate.policy import ENGINE_VERSION
from spendgate.record import decode_record
from spendgate_daemon.relays.store_relay import StoreRelay
from spendgate_daemon.replay import NoReplay, replay
from spendgate_daemon.store import Store
from spendgate_daemon.store.schema import decisions, effective_policies


class Filled:
    """A store with the decisions of one customer: ids by what they are."""

    def __init__(self, house: House, store: Store, path) -> None:
        self.house, self.store, self.url = house, store, f"sqlite:///{path}"
        self.ids: dict[str, str] = {}

    def relay(self) -> None:
        relay = StoreRelay(self.house.control, self.store)
        while self.house.run(relay.run_once()):
            pass

    def rewrite(self, decision_id: str, **fields) -> None:
        """Put another record in the place of a stored one."""
        with self.store.database.writing() as connection:
            where = decisions.c.decision_id == decision_id
            row = connection.execute(sa.select(decisions.c.record).where(where)).scalar_one()
            record = msgspec.structs.replace(decode_record(bytes(row)), **fields)
            connection.execute(decisions.update().where(where).values(record=msgspec.msgpack.encode(record)))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spendgate_daemon.cli", "replay", *arguments],
            env={"SPENDGATE_DATABASE_URL": self.url, "COLUMNS": "200", "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def filled(run, control, gate, redis_url, tmp_path):
    house = House(run, control, gate, redis_url)
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    made = Filled(house, store, tmp_path / "store.db")
    policy = policy_of(quota(1000), rate(burst=900, units=900), timezone="Asia/Kolkata")
    house.contract(policy)
    store.policies.save_effective({policy.digest: policy.encode()})
    made.ids["allowed"] = house.decide(700, event_id="run-1", metadata={"model": "m-[1]"}).decision_id
    made.ids["denied"] = house.decide(600).decision_id

    async def reserve_and_commit():
        async with gate.reserve("acme", "tokens", 100) as held:
            held.commit(40)
        return held.decision.decision_id, held.finished.record_id

    made.ids["reserved"], made.ids["finished"] = run(reserve_and_commit())
    made.relay()
    yield made
    store.close()
    house.close()


@pytest.mark.parametrize("what", ["allowed", "denied", "reserved", "finished"])
def test_what_was_decided_is_decided_again(filled, what):
    found = replay(filled.store, filled.ids[what])
    assert found.agrees
    assert found.as_json()["differences"] == []
    assert [line.id for line in found.lines] == ["tokens-day", "tokens-rate"]


def test_the_command_tells_a_denial_with_its_numbers_and_what_would_help(filled):
    done = filled.command(filled.ids["denied"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "stop: Limit tokens-day: the event asks for 600 tokens, but only 300 tokens of 1,000 tokens" in done.stdout
    assert "would help   300 tokens short: ask for at most 300 tokens, or wait until" in done.stdout
    assert "Asia/Kolkata (UTC+05:30)" in done.stdout
    assert "■ does not fit" in done.stdout
    assert f"The definition (engine {ENGINE_VERSION}) decides the same." in done.stdout


def test_the_command_tells_the_end_of_a_reservation(filled):
    done = filled.command(filled.ids["finished"])
    assert done.returncode == 0
    assert "outcome      committed: What was really used is debited" in done.stdout
    assert "reservation  used 40 tokens of tokens; debited 40 tokens of tokens" in done.stdout


def test_machines_get_json(filled):
    done = filled.command(filled.ids["allowed"], "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["kind"], told["agrees"], told["engine"], told["differences"]) == ("decision", True, 1, [])
    assert told["answer"]["decision_trace"]["event"]["metadata"] == {"model": "m-[1]"}
    finished = replay(filled.store, filled.ids["finished"]).as_json()
    assert finished["reservation"] == {
        "status": "committed",
        "effective_at": finished["reservation"]["effective_at"],
        "reserved": {"tokens": 100},
        "actual": {"tokens": 40},
        "committed": {"tokens": 40},
    }


def test_a_decision_that_the_definition_makes_otherwise_is_named_and_fails(filled):
    denied = replay(filled.store, filled.ids["denied"]).record
    result = msgspec.structs.replace(denied.result, outcome="allow", reason="allowed", limit_id="")
    filled.rewrite(filled.ids["denied"], result=result)
    done = filled.command(filled.ids["denied"])
    assert done.returncode == 1
    assert "decides otherwise" in done.stdout
    assert "outcome: stored allow, computed stop" in done.stdout
    assert "limit_id: stored nothing, computed tokens-day" in done.stdout
    told = json.loads(filled.command(filled.ids["denied"], "--json").stdout)
    assert {"field": "reason", "stored": "allowed", "computed": "quota_exceeded"} in told["differences"]


def test_the_end_of_a_reservation_that_should_have_crossed_a_threshold_disagrees(filled):
    finished = replay(filled.store, filled.ids["finished"]).record
    result = msgspec.structs.replace(finished.result, crossed=(("tokens-day", "80%"),))
    filled.rewrite(filled.ids["finished"], result=result)
    [difference] = replay(filled.store, filled.ids["finished"]).differences
    assert (difference.field, difference.computed) == ("crossed", ())


@pytest.mark.parametrize(("decision_id", "says"), [("run-1", "is no decision id"), ("d017-1-1", "has no decision")])
def test_what_is_not_there_is_said_so(filled, decision_id, says):
    done = filled.command(decision_id)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_policy_that_the_store_lost_is_named(filled):
    digest = replay(filled.store, filled.ids["allowed"]).record.policy
    with filled.store.database.writing() as connection:
        connection.execute(effective_policies.delete())
    fresh = Store.open(filled.url)
    with pytest.raises(NoReplay, match=f"has no policy {digest}"):
        replay(fresh, filled.ids["allowed"])
    fresh.close()


@pytest.mark.parametrize("what", ["allowed", "finished"])
def test_an_engine_of_the_future_is_refused_by_its_number(filled, what):
    filled.rewrite(filled.ids[what], engine=7)
    with pytest.raises(NoReplay, match="made by engine 7, and this version of Spendgate knows only engine 1"):
        replay(filled.store, filled.ids[what])


def test_counted_denials_have_nothing_to_decide_again(filled):
    filled.rewrite(filled.ids["denied"], kind="denials")
    with pytest.raises(NoReplay, match="kind 'denials' and stands for 1 further denials"):
        replay(filled.store, filled.ids["denied"])


def test_a_record_that_cannot_be_read_is_said_so(filled):
    with filled.store.database.writing() as connection:
        connection.execute(decisions.update().values(record=b"\xc1"))
    with pytest.raises(NoReplay, match="can't be read"):
        replay(filled.store, filled.ids["allowed"])


def test_every_engine_up_to_this_one_can_be_had():
    assert sorted(ENGINES) == list(range(1, ENGINE_VERSION + 1))
    with pytest.raises(UnknownEngine):
        engine_of(ENGINE_VERSION + 1)
