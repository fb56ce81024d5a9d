"""Text → checked document. YAML is read safely, with the line of every node, and nothing is coerced silently."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Any, Final

import jsonschema
import msgspec
import yaml

from spendgate_daemon.documents.document import PolicyDocument
from spendgate_daemon.documents.errors import DocumentError, Fault
from spendgate_daemon.documents.semantics import faults_of

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
DEFAULT_DOCUMENT: Final = "default.yaml"
"""The document that `spendgate up` starts with; a resource of this package."""

SCHEMA: Final = json.loads(files("spendgate_daemon.documents").joinpath("schema.json").read_text(encoding="utf-8"))

_Lines = dict[tuple[str | int, ...], int]


def load_document(text: str | bytes, name: str = "policy") -> PolicyDocument:
    """Parse and check a document completely. Raises DocumentError with every fault found."""
    encoded = text.encode() if isinstance(text, str) else text
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise DocumentError(name, [Fault(1, "", f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")])
    try:
        decoded = encoded.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = encoded[: exc.start].count(b"\n") + 1
        raise DocumentError(name, [Fault(line, "", "the document is not valid UTF-8")]) from exc
    value, lines = _read_yaml(decoded, name)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    faults = [
        Fault(_line_of(lines, tuple(error.absolute_path)), _path(tuple(error.absolute_path)), _message(error))
        for error in validator.iter_errors(value)
    ]
    if faults:
        raise DocumentError(name, sorted(faults, key=lambda fault: fault.line))
    document = msgspec.convert(value, PolicyDocument)
    found = [Fault(_line_of(lines, path), _path(path), message) for path, message in faults_of(document)]
    if found:
        raise DocumentError(name, sorted(found, key=lambda fault: fault.line))
    canonical = msgspec.json.encode(document, order="deterministic")
    return msgspec.structs.replace(document, digest=hashlib.sha256(canonical).hexdigest()[:32], text=decoded)


def _read_yaml(text: str, name: str) -> tuple[Any, _Lines]:
    lines: _Lines = {}
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark is not None else 1
                raise DocumentError(name, [Fault(line, "", "aliases are not allowed")])
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise DocumentError(name, [Fault(1, "", "the document is empty")])
        return _value_of(root, (), lines, name), lines
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise DocumentError(name, [Fault(line, "", f"this is not YAML: {exc.problem or exc.context}")]) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise DocumentError(name, [Fault(1, "", f"this is not YAML: {exc}")]) from exc


def _value_of(node: yaml.Node, path: tuple[str | int, ...], lines: _Lines, name: str) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if not isinstance(key_node, yaml.ScalarNode) or key in mapping:
                line = key_node.start_mark.line + 1
                problem = "this key appears twice" if key in mapping else "a key must be text"
                raise DocumentError(name, [Fault(line, _path((*path, key)), problem)])
            mapping[key] = _value_of(value_node, (*path, key), lines, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value_of(child, (*path, index), lines, name) for index, child in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _message(error: jsonschema.ValidationError) -> str:
    if error.validator == "additionalProperties":
        properties = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        known = ", ".join(sorted(properties))
        extra = sorted(set(error.instance) - set(properties)) if isinstance(error.instance, dict) else []
        return f"unknown field {', '.join(map(repr, extra))}; known are {known}"
    expected = error.schema.get("description") if isinstance(error.schema, dict) else None
    return f"{error.message}; expected {expected}" if expected else error.message


def _line_of(lines: _Lines, path: tuple[str | int, ...]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _path(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
