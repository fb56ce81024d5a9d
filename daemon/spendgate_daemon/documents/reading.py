"""YAML text → plain values, with the line of each.

The document is built from the parser's events instead of by a YAML constructor, so that nothing is made that the text
does not say: no tags, no aliases (a small file could name itself into gigabytes), no merge keys, and of the many
spellings of YAML 1.1 only the JSON ones. `010`, `1:30`, `0x10`, `yes` and `2026-01-01` are text, as they look.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from spendgate_daemon.documents.errors import DocumentError, Fault

MAX_DEPTH: Final = 16
MAX_DIGITS: Final = 18

Path = tuple[str | int, ...]
Lines = dict[Path, int]

_LOADER: Final[Any] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_WORDS: Final[dict[str, bool | None]] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")


def read_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """The single document of `text`, and the line (from 1) of every path in it. Raises DocumentError."""
    try:
        return _Reading(name, text).document()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark is not None else 1
        problem = f"this is not YAML: {exc.problem or exc.context}"
        raise DocumentError(name, [Fault(line, "", problem)]) from exc
    except yaml.YAMLError as exc:
        line = text.count("\n", 0, getattr(exc, "position", 0)) + 1
        raise DocumentError(name, [Fault(line, "", "this is not YAML: it has a control character")]) from exc


def line_of(lines: Lines, path: Path) -> int:
    """The line of `path`, or of its nearest parent that the text has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def path_text(path: Path) -> str:
    """A path as people write it: `plans.pro.limits[2].cap`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Reading:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self.lines: Lines = {}

    def document(self) -> tuple[Any, Lines]:
        next(self.events)  # the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise self.fault(1, (), "the document is empty")
        value = self.value(next(self.events), ())
        next(self.events)  # the end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise self.fault(following.start_mark.line + 1, (), "a second document begins here; there is only one")
        if value is None:
            raise self.fault(1, (), "the document is empty")
        return value, self.lines

    def value(self, event: Any, path: Path) -> Any:
        line = event.start_mark.line + 1
        self.lines[path] = line
        if isinstance(event, yaml.AliasEvent):
            raise self.fault(line, path, "aliases are not allowed; write the value out")
        if event.tag is not None:
            raise self.fault(line, path, f"tags such as {event.tag} are not allowed")
        if len(path) >= MAX_DEPTH:
            raise self.fault(line, path[:4], f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, path) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return self.mapping(path)

    def sequence(self, path: Path) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self.value(event, (*path, len(values))))
        return values

    def mapping(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise self.fault(line, path, "a key must be plain text")
            at = (*path, event.value)
            if event.value in values:
                raise self.fault(line, at, f"this key appears twice; first on line {self.lines[at]}")
            value = self.value(next(self.events), at)
            # The key's line, not the value's: a block that starts below its key is looked for at the key.
            self.lines[at] = line
            values[event.value] = value
        return values

    def scalar(self, event: Any, path: Path) -> Any:
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise self.fault(event.start_mark.line + 1, path, f"a number of more than {MAX_DIGITS} digits")
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def fault(self, line: int, path: Path, message: str) -> DocumentError:
        return DocumentError(self.name, [Fault(line, path_text(path), message)])
