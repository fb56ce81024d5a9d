"""Random interleavings of many clients' operations, and an audit of what they left behind.

An interleaving is made from one seed: what a few clients, an operator and a clock do, in a random order. It is played against
the real scripts, and then an accountant who knows nothing of how they work goes through the outbox, the answers and the
counters: not one unit may be overspent, lost or counted twice.
"""

from __future__ import annotations

from interleavings.audit import Broken
from interleavings.play import Player, told_scripts

__all__ = ["Broken", "Player", "told_scripts"]
