"""`spendgate up`: the whole product on one machine, from one command, without configuration."""

from __future__ import annotations

from pathlib import Path


def tether_path() -> Path:
    """The script that ties a child to its parent; it is run by path, never imported."""
    return Path(__file__).with_name("tether.py")
