"""Plays plans against a real Redis: many at once, step by step, each in keys of its own and with its own time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import hiredis
import msgspec
from redis.connection import parse_url

from interleavings.audit import Played, audit, per_keys
from interleavings.menu import (
    CUSTOMER,
    DAILY,
    HOUR_US,
    HOURLY,
    METERS,
    START_US,
    contract_arguments,
    override_arguments,
)
from interleavings.plan import Ask, Contract, End, External, Housekeeping, Plan, Step, plan_of
from spendgate.calls import decide_arguments, finish_arguments
from spendgate.control import FIRST_GENERATION
from spendgate.event import UsageEvent
from spendgate.limits.layout import pack_integers
from spendgate.record import decode_record
from spendgate.script import Script, load_scripts
from spendgate.state import OverrideSet
from spendgate.token import ReservationToken
from spendgate.transports.command import pack

EPOCH: Final = 1_790_000_000_000
AT_ONCE: Final = 250
CLOCK: Final = "local time = call('TIME')"
Call = tuple[str, str]
"""How a script is called: the command, and its name there."""
_NEVER_US: Final = 10**15


def told_scripts(alter: Callable[[str], str] = str) -> dict[str, Script]:
    """The scripts by name, with a clock that is told the time; `alter` breaks their source, to see that it is noticed."""
    clock = "local time = { ARGV[#ARGV - 1], ARGV[#ARGV] }"
    return load_scripts(lambda text: alter(text.replace(CLOCK, clock)))


class Player:
    """Owns a connection to the Redis at `url`, whose keys it deletes."""

    def __init__(self, url: str, played: Mapping[str, Script]) -> None:
        place = parse_url(url)
        self._socket = socket.create_connection((place["host"], place["port"]), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._calls = self._load(played)

    def close(self) -> None:
        self._socket.close()

    def _load(self, played: Mapping[str, Script]) -> Mapping[str, Call]:
        """Scripts by name as this Redis calls them: as functions, or before version 7 by their SHA-1."""
        (library,) = {script.library for script in played.values()}
        assert library is not None
        try:
            self._ask([pack("FUNCTION", "LOAD", "REPLACE", library.source)])
        except hiredis.ReplyError as error:
            if "unknown command" not in str(error):
                raise
            self._ask([pack("SCRIPT", "LOAD", script.source) for script in played.values()])
            return {name: ("EVALSHA", script.sha) for name, script in played.items()}
        return {name: ("FCALL", str(script.function)) for name, script in played.items()}

    def play(self, seeds: Sequence[int]) -> None:
        """Play and audit the interleavings of these seeds. Raises Broken, which names the seed."""
        for at in range(0, len(seeds), AT_ONCE):
            self._play_together(seeds[at : at + AT_ONCE])

    def _play_together(self, seeds: Sequence[int]) -> None:
        games = [_Game(seed, plan_of(seed), self._calls) for seed in seeds]
        self._ask([pack("FLUSHDB"), *(game.prepare() for game in games)])
        for number in range(max(len(game.plan) for game in games)):
            playing = [game for game in games if number < len(game.plan)]
            commands = [game.commands(game.plan[number]) for game in playing]
            answers = iter(self._ask([command for each in commands for command in each]))
            for game, each in zip(playing, commands, strict=True):
                game.note(game.plan[number], [next(answers) for _ in each])
        for game, left in zip(games, self._look(games, "before"), strict=True):
            game.played.before = left
        self._ask([game.drain() for game in games])
        for game, left in zip(games, self._look(games, "after"), strict=True):
            game.played.after = left
            audit(game.played)

    def _look(self, games: Sequence[_Game], when: str) -> list[dict[str, Any]]:
        """What is left of each game: counters and open reservations, and its outbox in the end."""
        names = ("counters", "per", "reservations", "ends", "seq", "outbox")
        counters = [pack("HGETALL", game.key("counters")) for game in games]
        open_ones = [pack("HKEYS", game.key("reservations")) for game in games]
        ends = [pack("ZRANGE", game.key("ends"), 0, -1, "WITHSCORES") for game in games]
        seqs = [pack("HGET", f"{game.tag}meta", "seq") for game in games]
        outbox = [
            pack("XRANGE", f"{game.tag}outbox", "-", "+") if when == "after" else pack("ECHO", "") for game in games
        ]
        found = self._ask([*counters, *open_ones, *ends, *seqs, *outbox])
        count = len(games)
        stored, opened, ending, seq, entries = (found[at : at + count] for at in range(0, 5 * count, count))
        places = [per_keys(game.played, game.tag) for game in games]
        hashes = iter(self._ask([pack("HGETALL", key) for each in places for key in each]))
        per = [{place: _pairs(next(hashes)) for place in each.values()} for each in places]
        return [
            dict(zip(names, each, strict=True))
            for each in zip(map(_pairs, stored), per, opened, ending, seq, entries, strict=True)
        ]

    def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        """One pipeline. Raises the first error that Redis answers."""
        self._socket.sendall(b"".join(commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            answer = self._reader.gets()
            if answer is False:
                received = self._socket.recv(1 << 20)
                assert received, "Redis closed the connection"
                self._reader.feed(received)
                continue
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            answers.append(answer)
        return answers


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class _Game:
    """One interleaving on its way: what it sends next, and what came back."""

    def __init__(self, seed: int, plan: Plan, calls: Mapping[str, Call]) -> None:
        self.plan = plan
        self.tag = f"sg:{{{seed}}}:"
        self.played = Played(seed, plan)
        self._calls = calls
        self._generation = 1
        self._tokens: dict[str, ReservationToken] = {}

    def key(self, what: str) -> str:
        return f"{self.tag}{what}:{CUSTOMER}"

    def prepare(self) -> bytes:
        meta = (
            "epoch",
            EPOCH,
            "seq",
            0,
            "full_at",
            10**9,
            "generation",
            FIRST_GENERATION,
            "generation_at_us",
            START_US,
        )
        return pack("HSET", f"{self.tag}meta", *meta)

    def drain(self) -> bytes:
        """All reservations end, nothing else expires."""
        latest_us = max(step.now_us for step in self.plan)
        return self._script("sweep", latest_us + 3 * HOUR_US, 100, _NEVER_US, customer=False)

    def commands(self, step: Step) -> list[bytes]:
        """What a step sends: nothing where there is no reservation to end."""
        action, now_us = step.action, step.now_us
        if isinstance(action, Ask):
            arguments = decide_arguments(action.event, action.mode, dry_run=False, lifetime_us=action.lifetime_us)
            return [self._script("decide", now_us, *arguments[2:])]
        if isinstance(action, End):
            token = self._tokens.get(action.event_id)
            if token is None:
                return []
            arguments = finish_arguments(token, action.action, actual_of(action, token.event), action.by_us)
            return [self._script("finish_reservation", now_us, *arguments[2:])]
        seq = pack("HGET", f"{self.tag}meta", "seq")
        if isinstance(action, Contract):
            return [self._script("put_state", now_us, *contract_arguments(*msgspec.structs.astuple(action))), seq]
        if isinstance(action, OverrideSet):
            return [self._script("put_overrides", now_us, *override_arguments(action)), seq]
        if isinstance(action, External):
            start = _open_period(action.limit_id, now_us)
            return [
                self._script("put_external", now_us, action.limit_id, start, action.amount, action.requested_at_us),
                seq,
            ]
        return [self._housekeeping(action, now_us), seq]

    def _housekeeping(self, action: Housekeeping, now_us: int) -> bytes:
        if action.what == "sweep":
            return self._script("sweep", now_us, 100, _NEVER_US, customer=False)
        if action.what == "refresh":
            return self._script("refresh", now_us, "")
        self._generation += 1
        generation = pack_integers((4, 3, 3), (self._generation, 1024, 1024))
        return pack("HSET", f"{self.tag}meta", "generation", generation)

    def note(self, step: Step, answers: list[Any]) -> None:
        self.played.answers.append((step, answers))
        action = step.action
        if isinstance(action, Ask) and action.mode == "reserve" and answers[0][0] == b"decided" and answers[0][2] == 1:
            event = decode_record(answers[0][4]).event
            assert event is not None
            stream_id = answers[0][1].decode()
            self._tokens[event.event_id] = ReservationToken(
                CUSTOMER, event.event_id, stream_id, step.now_us, event.quantities, event.metadata
            )

    def _script(self, name: str, now_us: int, *arguments: Any, customer: bool = True) -> bytes:
        who = (self.tag, CUSTOMER) if customer else (self.tag,)
        return pack(*self._calls[name], 1, self.key("counters"), *who, *arguments, *divmod(now_us, 1_000_000))


def actual_of(action: End, event: UsageEvent) -> dict[str, int]:
    """What a commit says was used."""
    if action.action != "commit":
        return {}
    actual = {meter: int(quantity * action.share) + action.more for meter, quantity in event.quantities.items()}
    if action.other_meter:
        actual |= {meter: 4 for meter in METERS if meter not in event.quantities}
    return actual


def _open_period(limit_id: str, now_us: int) -> int:
    period = (DAILY if limit_id.startswith("day") else HOURLY).period_at(now_us)
    assert period is not None
    return period[0]
