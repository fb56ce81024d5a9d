"""The counter of a quota: what was used in one period."""

from __future__ import annotations

from typing import Final, Self

import msgspec

from spendgate.errors import TooLarge
from spendgate.limits.layout import pack_integers, unpack_integers
from spendgate.limits.result import MAX_COUNTER

_WIDTHS: Final = (5, 7, 7, 7, 7, 7, 7, 2)
"""`>I5I7I7I7I7I7I7I2c0` in Lua; the last is the length of the names that follow."""


class PeriodCounter(msgspec.Struct, frozen=True):
    """Units in the period that starts at `period_start_seconds`. `external` was read from UsageBox at `external_at_us`;
    `reserved` is held by open reservations that began in this period; `fired` are the thresholds crossed. `stale_used`
    units were let through while the mirror of `stale_since_us` was too old."""

    period_start_seconds: int = 0
    used: int = 0
    external: int = 0
    external_at_us: int = 0
    reserved: int = 0
    stale_since_us: int = 0
    stale_used: int = 0
    fired: tuple[str, ...] = ()

    @property
    def effective(self) -> int:
        """What counts against a cap."""
        return self.used + self.external + self.reserved

    def stale_units(self, mirrored_at_us: int) -> int:
        """Units let through since that mirror became too old; what an older one's let through is settled."""
        return self.stale_used if self.stale_since_us == mirrored_at_us else 0

    def encode(self) -> bytes:
        """As it is stored."""
        fired = "".join(f"{name}," for name in self.fired).encode()
        numbers = [getattr(self, name) for name in self.__struct_fields__[:-1]]
        return pack_integers(_WIDTHS, [*numbers, len(fired)]) + fired

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Inverse of `encode`. Raises ValueError."""
        (start, used, external, read_us, reserved, stale_us, stale_used, _), fired = unpack_integers(_WIDTHS, raw)
        names = tuple(fired.decode().split(",")[:-1])
        return cls(start, used, external, read_us, reserved, stale_us, stale_used, names)


def checked_sum(counter: int, amount: int, limit_id: str) -> int:
    """Sum of both, or TooLarge when it would leave the range that Lua computes exactly."""
    if counter + amount > MAX_COUNTER:
        raise TooLarge("counter_full", limit_id)
    return counter + amount
