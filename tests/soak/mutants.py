"""Ways to break the scripts, each of which the audit of the interleavings must notice: what to replace, and by what."""

from __future__ import annotations

from typing import Final

MUTANTS: Final[dict[str, tuple[str, str]]] = {
    "a quota lets one unit more pass": ("amount > left - reserved then", "amount > left - reserved + 1 then"),
    "a quota denies the last unit": ("amount > left - reserved then", "amount >= left - reserved then"),
    "what is reserved does not count against a cap": ("amount > left - reserved then", "amount > left then"),
    "external use does not count against a cap": (
        "hard_cap and hard_cap - used - external",
        "hard_cap and hard_cap - used",
    ),
    "a wallet forgets what is reserved": ("local balance = left - counter.reserved", "local balance = left"),
    "a wallet lets one micro-credit more pass": ("if cost > balance then", "if cost > balance + 1 then"),
    "a rate forgives": ("local excess = debt + amount * per_us - ceiling", "local excess = debt - ceiling"),
    "a rate melts when the clock is put back": (
        "local elapsed_us = max(0, now_us - updated_us)",
        "local elapsed_us = math.abs(now_us - updated_us)",
    ),
    "one run too many": ("if count >= rule[OWN] then", "if count > rule[OWN] then"),
    "a run that ends stays open": ("math.max(0, read(raw) - 1)", "math.max(0, read(raw))"),
    "a reservation is debited and not freed": (
        "used, reserved = math.max(0, used + amount), math.max(0, reserved - held)",
        "used = math.max(0, used + amount)",
    ),
    "a reservation is freed and not debited": (
        "used, reserved = math.max(0, used + amount), math.max(0, reserved - held)",
        "reserved = math.max(0, reserved - held)",
    ),
    "a wallet does not free": (
        "counter.reserved = max(0, counter.reserved - held)",
        "counter.reserved = counter.reserved",
    ),
    "an end is debited in the period of now": (
        "local at = math.floor(ending.effective_at_us / 1000000)",
        "local at = customer.now_seconds",
    ),
    "an allowed event is not remembered": ("if remembered then", "if false then"),
    "memory forgets the last generation": (
        "return redis.call('HGET', now, identity) or redis.call('HGET', before, identity)",
        "return redis.call('HGET', now, identity)",
    ),
    "other content is no conflict": ("if known ~= fingerprint then", "if false then"),
    "an open reservation is given again": ("if open then -- for longer", "if false then -- for longer"),
    "a reservation ends twice": ("call('HDEL', open_key(customer), reservation.event_id)", "local _ = 0"),
    "how a reservation ended is forgotten": (
        "use('memory').keep(customer, 'ended', reservation.identity, pack({ id, reason, facts }))",
        "local _ = 0",
    ),
    "a second end is another end": ("elseif ended then", "elseif false then"),
    "another end is told the first": ("if not same and not (action", "if false and not (action"),
    "a reservation expires early": (
        "'-inf', now_us, 'LIMIT', 0, OVERDUE_MAX",
        "'-inf', now_us + 5000000, 'LIMIT', 0, OVERDUE_MAX",
    ),
    "a reservation never expires": ("if ends_us > 0 and ends_us <= now_us", "if ends_us > 0 and false"),
    "the grace is left out": ("return deadline_us + grace_us", "return deadline_us"),
    "a commit above is not capped": ("if quantity > reserved and above == 'cap' then", "if false then"),
    "a commit above is not rejected": ("if quantity > reserved and above == 'reject' then", "if false then"),
    "an extension has no bound": ("if customer.now_us + by_us > latest_us then", "if false then"),
    "an end follows the terms of now": ("local rules = digest ~= customer.digest and", "local rules = false and"),
    "an override lets everything pass": (" + units <= (override.max_units or 0)", " <= (override.max_units or 0)"),
    "what an override let pass is not counted": (
        "(override.id == used_id and units or 0)",
        "0",
    ),
    "an override never ends": ("and override.until_us > customer.now_us\n      and", "and"),
    "an override covers all limits": ("if bypassed == '*' or bypassed == limit_id then", "if true then"),
    "a stop is overlooked": ("if override.kind == 'stop' and override.until_us", "if false and override.until_us"),
    "a suspended customer goes on": ("if customer.status == SUSPENDED then", "if false then"),
    "a shadow limit denies": ("if denies and rule[5] then", "if denies then"),
    "a limit is not asked": ("if amount > 0 or rule[6] then", "if rule[6] then"),
    "match is overlooked": ("and rule[7] and not applies", "and false and not applies"),
    "a value too many is kept": ("if not raw and count >= rule[9] then", "if false then"),
    "a threshold fires twice": ("and not (',' .. fired):find(',' .. name .. ',', 1, true)", ""),
    "a threshold fires late": ("if use >= thresholds[index]", "if use > thresholds[index]"),
    "the period before is lost": ("if move.shifts then", "if false then"),
    "the period before takes the place of the open one": ("move.older and BEFORE .. name or name", "name"),
    "a sequence has gaps": ("meta[2] + 1)", "meta[2] + 2)"),
    "a debit is not written": (
        "= customer.fields[index], counter\n",
        "= customer.fields[index], customer.counters[index] or counter\n",
    ),
    "a denial debits": ("  if allowed then\n    id, seq = keep_debit", "  if true then\n    id, seq = keep_debit"),
    "a per-event limit is one too large": ("if amount > most then", "if amount > most + 1 then"),
}
