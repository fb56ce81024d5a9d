"""YAML as it is read here: what the text says and nothing more, and hostile text at the price of a glance."""

from __future__ import annotations

import pytest

from spendgate_daemon.documents.errors import DocumentError
from spendgate_daemon.documents.reading import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("1_000", 1000),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("~", None),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("2026-01-01", "2026-01-01"),
        ("'7'", "7"),
        (".inf", ".inf"),
        ("1__0", "1__0"),
        ("[1, {b: 2}]", [1, {"b": 2}]),
    ],
)
def test_plain_scalars_are_what_they_look_like(text, value):
    read, _ = read_yaml(f"a: {text}\n", "test")
    assert read == {"a": value}
    assert type(read["a"]) is type(value)


def test_every_path_has_the_line_of_its_key():
    _, lines = read_yaml("a:\n  b:\n    - 1\n    - c: 2\n", "test")
    assert lines == {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "b", 0): 3, ("a", "b", 1): 4, ("a", "b", 1, "c"): 4}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("~\n", 1, "empty"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: 1\nb: 2\na: 3\n", 3, "twice; first on line 1"),
        ("a: !!python/object:os.system x\n", 1, "tags"),
        ("a: !!binary eA==\n", 1, "tags"),
        ("? [a]\n: b\n", 1, "key"),
        ("a: &x [1]\nb: *x\n", 2, "aliases"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "aliases"),
        ("a: 'x\n", 2, "not YAML"),
        ("\ta: 1\n", 1, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "control character"),
        ("a: " + "9" * 19, 1, "digits"),
        ("[" * 200_000, 1, "nested"),
        ("{a: " * 50_000, 1, "nested"),
        ("\n".join("  " * depth + "a:" for depth in range(30)), 17, "nested"),
    ],
)
def test_what_is_refused_is_refused_with_its_line(text, line, words):
    with pytest.raises(DocumentError) as caught:
        read_yaml(text, "test")
    fault = caught.value.faults[0]
    assert words in fault.message
    assert fault.line == line
