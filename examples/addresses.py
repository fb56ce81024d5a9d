"""Where the examples find Redis and the model provider."""

from __future__ import annotations

import os
from pathlib import Path

REDIS_URL = os.environ.get("SPENDGATE_REDIS_URL") or f"unix://{Path('.spendgate/redis.sock').resolve()}"
"""By default that of a `spendgate up` that runs in this directory."""

PROVIDER_URL = os.environ.get("PROVIDER_URL", "http://127.0.0.1:8600")
