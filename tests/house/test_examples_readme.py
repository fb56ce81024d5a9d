"""The examples' README, run word by word against a running `spendgate up` and a provider of its own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import provider
from serving import serve

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def provider_url():
    with serve(provider.app) as url:
        yield url


def test_a_stranger_can_follow_it(stack, addresses, provider_url):
    """Both blocks in one shell, as a reader has one."""
    text = "\n".join(BLOCKS).replace("http://127.0.0.1:8700", addresses["api_url"])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text.replace("examples/", f"{ROOT}/examples/")],
        check=False,
        cwd=stack.directory,
        env=stack.environment | {"PROVIDER_URL": provider_url},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(provider.SENTENCE) == 2
    assert "Limit output-month: the event asks for 1,000 tokens" in done.stdout
    assert "What would help: ask for at most 500 tokens, all that a period of month has" in done.stdout


def test_it_names_every_example():
    linked = set(re.findall(r"\[(\w+\.py)\]\(\1\)", TEXT))
    assert linked | {"addresses.py"} == {path.name for path in (ROOT / "examples").glob("*.py")}
