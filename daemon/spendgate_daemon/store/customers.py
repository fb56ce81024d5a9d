"""Customers: their policy state as last mirrored, and what was last observed of their enforcement."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from spendgate.limits.check import Grant
from spendgate.state import SOURCES, strength
from spendgate_daemon.store.database import Database, without_nul
from spendgate_daemon.store.page import Page
from spendgate_daemon.store.schema import active_since_read, customers

IDS_MAX = 500
"""Ids in one statement."""

Sort = Literal["exhaustion", "name"]


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """What the mirror knows. `caps` are contractual, per meter; `granted_micro_credits` None: no credits stated; `grants`
    are in the order in which they burn."""

    customer_id: str
    name: str
    plan: str
    status: str
    version: int
    source: str
    policy_digest: str
    updated_at_us: int
    caps: dict[str, int] = {}
    granted_micro_credits: int | None = None
    timezone: str | None = None
    billing_anchor_day: int | None = None
    grants: tuple[Grant, ...] = ()


class Tightest(msgspec.Struct, frozen=True):
    """The limit that is closest to its end; `used` and `limit` in `unit`."""

    id: str
    unit: str
    used: int
    limit: int


class Burn(msgspec.Struct, frozen=True):
    """Units of the busiest meter in the last hour."""

    meter: str
    unit: str
    quantity: int


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the advice job saw. `until_us` 0: the state does not end by itself; `exhausts_at_us` None: at the present
    burn nothing runs out before it resets."""

    customer_id: str
    state: str
    until_us: int = 0
    tightest: Tightest | None = None
    burn: Burn | None = None
    exhausts_at_us: int | None = None
    observed_at_us: int


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A customer with the last observation."""

    customer: Customer
    state: str
    state_since_us: int
    until_us: int
    tightest: Tightest | None
    burn: Burn | None
    exhausts_at_us: int | None
    observed_at_us: int


class Customers:
    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, saved: Sequence[Customer]) -> None:
        """Insert or replace what the mirror knows, in the order of policy states that Redis keeps, too: an older one is passed
        over. Observations stay."""
        rows = [
            {name: getattr(customer, name) for name in customer.__struct_fields__}
            | {
                "caps": json.dumps(customer.caps),
                "grants": msgspec.json.encode(customer.grants).decode(),
                "name": without_nul(customer.name),
                "plan": without_nul(customer.plan),
            }
            for customer in saved
        ]
        if rows:
            taken = [name for name in Customer.__struct_fields__ if name != "customer_id"]
            with self._database.writing() as connection:
                self._database.upsert(
                    connection, customers, rows, keys=["customer_id"], update=taken, where=_comes_after
                )

    def observe(self, observations: Sequence[Observation]) -> None:
        """Note what was seen of known customers; of others nothing is kept."""
        with self._database.writing() as connection:
            for seen in observations:
                changed = sa.case(
                    (customers.c.state == seen.state, customers.c.state_since_us), else_=seen.observed_at_us
                )
                connection.execute(
                    customers.update()
                    .where(customers.c.customer_id == seen.customer_id)
                    .where(customers.c.observed_at_us <= seen.observed_at_us)
                    .values(
                        state_since_us=changed,
                        state=seen.state,
                        until_us=seen.until_us,
                        tightest=_text(seen.tightest),
                        burn=_text(seen.burn),
                        exhausts_at_us=seen.exhausts_at_us,
                        observed_at_us=seen.observed_at_us,
                    )
                )

    def get(self, customer_id: str) -> Listed | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(customers).where(customers.c.customer_id == customer_id)).first()
        return _listed(row) if row is not None else None

    def known(self, customer_ids: Sequence[str]) -> dict[str, Customer]:
        """Those of them that there are, by id."""
        columns = [customers.c[name] for name in Customer.__struct_fields__]
        found: dict[str, Customer] = {}
        with self._database.reading() as connection:
            for first in range(0, len(customer_ids), IDS_MAX):
                query = sa.select(*columns).where(customers.c.customer_id.in_(customer_ids[first : first + IDS_MAX]))
                found |= {row[0]: _customer(row) for row in connection.execute(query)}
        return found

    def following(self, customer_id: str, limit: int) -> list[Customer]:
        """The next ones in the order of ids, "" to begin."""
        columns = [customers.c[name] for name in Customer.__struct_fields__]
        query = sa.select(*columns).where(customers.c.customer_id > customer_id).order_by(customers.c.customer_id)
        with self._database.reading() as connection:
            return [_customer(row) for row in connection.execute(query.limit(limit))]

    def from_source(self, source: str, updated_before_us: int | None = None) -> set[str]:
        """Ids of those known from a source and not changed since (None: whenever), who are not cancelled."""
        query = sa.select(customers.c.customer_id).where(
            customers.c.source == source, customers.c.status != "cancelled"
        )
        if updated_before_us is not None:
            query = query.where(customers.c.updated_at_us < updated_before_us)
        with self._database.reading() as connection:
            return set(connection.execute(query).scalars())

    def turns_to_read(self, urgent: int, unread: int) -> dict[str, int]:
        """Whose totals are read next, and when they last were (0: never). At most `urgent` who will soon run out or were
        active since their last reading, half of each if there are as many, and before them the `unread` longest unread.
        """
        id_and_turn = sa.select(customers.c.customer_id, customers.c.totals_read_at_us)
        known = id_and_turn.where(customers.c.status != "cancelled")
        ending = known.where(customers.c.exhausts_at_us.is_not(None)).order_by(customers.c.exhausts_at_us)
        active = known.where(active_since_read).order_by(customers.c.totals_read_at_us)
        oldest = known.order_by(customers.c.totals_read_at_us)
        with self._database.reading() as connection:

            def first(query: sa.Select[tuple[str, int]], number: int) -> dict[str, int]:
                return {row.customer_id: row.totals_read_at_us for row in connection.execute(query.limit(number))}

            chosen = first(oldest, unread)
            soonest = first(ending, urgent)
            moving = first(active, urgent + unread)
        others = [customer_id for customer_id in moving if customer_id not in chosen]
        chosen |= dict(list(soonest.items())[: max(urgent // 2, urgent - len(others))])
        for customer_id in others:
            if len(chosen) < urgent + unread:
                chosen[customer_id] = moving[customer_id]
        return chosen

    def note_totals_read(self, customer_ids: Sequence[str], at_us: int) -> None:
        with self._database.writing() as connection:
            for first in range(0, len(customer_ids), IDS_MAX):
                chosen = customers.c.customer_id.in_(customer_ids[first : first + IDS_MAX])
                connection.execute(customers.update().where(chosen).values(totals_read_at_us=at_us))

    def oldest_totals(self) -> tuple[int, int]:
        """How many customers there are, and when the totals of the longest unread were read (0: never)."""
        query = sa.select(sa.func.count(), sa.func.min(customers.c.totals_read_at_us))
        with self._database.reading() as connection:
            number, read_at_us = connection.execute(query.where(customers.c.status != "cancelled")).one()
        return number, read_at_us or 0

    def with_old_burn(self, before_us: int, limit: int) -> list[str]:
        """Those said to burn something whom nobody has looked at since; the longest unseen first."""
        query = (
            sa.select(customers.c.customer_id)
            .where(customers.c.burn.is_not(None), customers.c.observed_at_us < before_us)
            .order_by(customers.c.observed_at_us)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def all_known(self) -> list[Customer]:
        """Every customer, for a recompile."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(customers).order_by(customers.c.customer_id)).all()
        return [_listed(row).customer for row in rows]

    def names(self, customer_ids: Sequence[str]) -> dict[str, str]:
        """Display names of those that are known."""
        if not customer_ids:
            return {}
        query = sa.select(customers.c.customer_id, customers.c.name).where(
            customers.c.customer_id.in_(set(customer_ids))
        )
        with self._database.reading() as connection:
            return {row.customer_id: row.name for row in connection.execute(query)}

    def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        plan: str | None = None,
        search: str | None = None,
        sort: Sort = "exhaustion",
    ) -> Page[Listed]:
        """By time to exhaustion (soonest first, never last) or by name. Raises ValueError for a foreign cursor."""
        never = 2**62
        order = sa.func.coalesce(customers.c.exhausts_at_us, never) if sort == "exhaustion" else customers.c.name
        query = sa.select(customers, order.label("ordered")).order_by(order, customers.c.customer_id).limit(limit + 1)
        if state is not None:
            query = query.where(customers.c.state == state)
        if plan is not None:
            query = query.where(customers.c.plan == plan)
        if search:
            found = customers.c.name.icontains(search, autoescape=True)
            query = query.where(found | customers.c.customer_id.icontains(search, autoescape=True))
        if cursor is not None:
            after, last_id = _read_cursor(cursor, int if sort == "exhaustion" else str)
            query = query.where((order > after) | ((order == after) & (customers.c.customer_id > last_id)))
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        more = len(rows) > limit
        rows = rows[:limit]
        next_cursor = _write_cursor(rows[-1].ordered, rows[-1].customer_id) if more else None
        return Page([_listed(row) for row in rows], next_cursor)

    def counts(self, now_us: int) -> dict[str, int]:
        """How many: `customers`, each state, and `exhausting_within_24h`."""
        soon = now_us + 86_400_000_000
        with self._database.reading() as connection:
            by_state = connection.execute(
                sa.select(customers.c.state, sa.func.count()).group_by(customers.c.state)
            ).all()
            exhausting = connection.execute(
                sa.select(sa.func.count())
                .select_from(customers)
                .where(customers.c.exhausts_at_us.between(now_us, soon), customers.c.state == "ok")
            ).scalar_one()
        counted: dict[str, int] = {"ok": 0, "throttled": 0, "stopped": 0, "suspended": 0}
        counted |= {row[0]: row[1] for row in by_state}
        return counted | {"customers": sum(counted.values()), "exhausting_within_24h": exhausting}


def _comes_after(new: Any) -> sa.ColumnElement[bool]:
    return _order(customers.c) <= _order(new)


def _order(columns: Any) -> sa.Tuple:
    """See `PolicyState.order`."""
    whens = " ".join(f"WHEN '{source}' THEN {strength(source)}" for source in SOURCES)
    of_source: sa.ColumnElement[int] = sa.literal_column(f"CASE {columns.source} {whens} ELSE 0 END")
    return sa.tuple_(of_source, columns.version, columns.updated_at_us)


_grants = msgspec.json.Decoder(tuple[Grant, ...])


def _text(value: msgspec.Struct | None) -> str | None:
    return msgspec.json.encode(value).decode() if value is not None else None


def _customer(row: Any) -> Customer:
    fields = dict(zip(Customer.__struct_fields__, row, strict=False))
    return Customer(**fields | {"caps": json.loads(fields["caps"]), "grants": _grants.decode(fields["grants"])})


def _listed(row: Any) -> Listed:
    return Listed(
        customer=_customer([getattr(row, name) for name in Customer.__struct_fields__]),
        state=row.state,
        state_since_us=row.state_since_us,
        until_us=row.until_us,
        tightest=msgspec.json.decode(row.tightest, type=Tightest) if row.tightest else None,
        burn=msgspec.json.decode(row.burn, type=Burn) if row.burn else None,
        exhausts_at_us=row.exhausts_at_us,
        observed_at_us=row.observed_at_us,
    )


def _write_cursor(ordered: int | str, customer_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([ordered, customer_id]).encode()).decode()


def _read_cursor(cursor: str, kind: type[int | str]) -> tuple[int | str, str]:
    try:
        ordered, customer_id = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=tuple[kind, str])  # type: ignore[valid-type]
    except (ValueError, msgspec.MsgspecError) as exc:
        raise ValueError("the cursor is not one of this list") from exc
    return ordered, customer_id
