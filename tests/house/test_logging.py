"""Logs: one JSON object a line from everybody, and no secret in any of them."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, structlog
from spendgate_daemon.logging import set_up_logging
set_up_logging("info")
log = structlog.get_logger("spendgate.test")
log.info("mirrored", customers=3, key="sg_0123456789abcdef_AbC-dEf_ghi")
log.debug("too small")
logging.getLogger("uvicorn.error").warning("connect to %s", "redis://:hunter2@host/0")
logging.getLogger("httpx").info("chatter")
try:
    raise ValueError("whsec_c2VjcmV0c2VjcmV0c2VjcmV0 is wrong")
except ValueError:
    log.exception("failed")
"""


def test_lines_are_json_and_secrets_are_blotted_out():
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["mirrored", "connect to redis://[hidden]@host/0", "failed"]
    assert lines[0]["customers"] == 3
    assert lines[0]["key"] == "[hidden]"
    assert "ValueError: [hidden] is wrong" in lines[2]["exception"]
    assert done.stdout == ""
