"""The README's commands and snippets, run word by word against a running `spendgate up`.

Only the addresses are exchanged, because the tests' ports are free ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def run_shell(text: str, stack, addresses) -> str:
    (stack.directory / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:17:0{second}.0000000,{400 + second},{20 + second}\n" for second in range(10))
    )
    text = text.replace("http://127.0.0.1:8700", addresses["api_url"])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        check=False,
        cwd=stack.directory,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def asked(stack) -> str:
    """What the first block prints: it makes the customer that the other snippets ask about."""
    import json

    addresses = json.loads((stack.home / "addresses.json").read_text())
    return run_shell(blocks("bash")[0], stack, addresses)


def test_asking_over_http(asked):
    assert '"decision":"allow"' in asked
    assert '"event_id":"run-4711"' in asked
    assert '"status":"committed"' in asked
    assert '"committed":{"tokens.output":950}' in asked


@pytest.mark.parametrize(("number", "printed"), [(0, "allow"), (1, "committed"), (2, "False")])
def test_python_snippets(asked, stack, number, printed):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks("python")[number]],
        check=False,
        cwd=stack.directory,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_there_are_no_other_snippets():
    assert (len(blocks("bash")), len(blocks("python"))) == (2, 3)


def test_commands(asked, stack, addresses):
    printed = run_shell(blocks("bash")[1], stack, addresses)
    assert f"{addresses['dashboard_url']}/signin?token=" in printed
    assert "local admin" in printed


def test_make_targets_exist():
    named = set(
        re.findall(r"(?m)(?:^|`)make (\w+)", "\n".join(blocks("sh")) + (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"up", "test", "lint", "bench"} <= named <= targets


def test_links_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_guide_names_folders_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:gate|flags|daemon|dashboard|tests)/[\w./]+)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
