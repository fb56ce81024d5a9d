"""Text → checked document: parsed, held against the published schema, then against itself. Nothing is coerced."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Any, Final

import jsonschema
import msgspec

from spendgate_daemon.documents.document import PolicyDocument
from spendgate_daemon.documents.errors import DocumentError, Fault
from spendgate_daemon.documents.reading import Path, line_of, path_text, read_yaml
from spendgate_daemon.documents.semantics import faults_of

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
MAX_FAULTS: Final = 50
DEFAULT_DOCUMENT: Final = "default.yaml"
"""The document that `spendgate up` starts with; a resource of this package."""

SCHEMA: Final[dict[str, Any]] = json.loads(
    files("spendgate_daemon.documents").joinpath("schema.json").read_text(encoding="utf-8")
)

_SHOWN_CHARACTERS = 60

_APART: Final = {
    "credits": "a wallet is one for the whole customer and can't be counted apart",
    "per_event": "a single event is bounded for itself, so nothing is counted apart",
}
"""Why a kind has neither `per` nor `max_values`."""


def load_document(text: str | bytes, name: str = "policy") -> PolicyDocument:
    """Parse and check a document completely. Raises DocumentError with every fault found.

    The digest is over the content, not the text: comments and the order of keys don't change it.
    """
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise DocumentError(name, [Fault(1, "", f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")])
    try:
        decoded = encoded.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = encoded[: exc.start].count(b"\n") + 1
        raise DocumentError(name, [Fault(line, "", "the document is not valid UTF-8")]) from exc
    value, lines = read_yaml(decoded, name)

    def refuse(found: Iterable[tuple[Path, str]]) -> None:
        faults = [Fault(line_of(lines, path), path_text(path), message) for path, message in found]
        if faults:
            raise DocumentError(name, sorted(faults, key=lambda fault: fault.line)[:MAX_FAULTS])

    refuse(_shape_faults(value))
    document = msgspec.convert(value, PolicyDocument)
    refuse(faults_of(document, lines))
    canonical = msgspec.json.encode(document, order="deterministic")
    return msgspec.structs.replace(document, digest=hashlib.sha256(canonical).hexdigest()[:32], text=decoded)


def load_file(path: FilePath | str) -> PolicyDocument:
    """Read and check a document. Raises OSError and DocumentError."""
    with FilePath(path).open("rb") as file:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
    return load_document(text, str(path))


def load_default() -> PolicyDocument:
    """The document that ships with the product."""
    resource = files("spendgate_daemon.documents").joinpath(DEFAULT_DOCUMENT)
    return load_document(resource.read_bytes(), DEFAULT_DOCUMENT)


def _is_whole(_checker: object, value: object) -> bool:
    """JSON Schema counts 5.0 as an integer; a cap of 5.0 is a slip that a document should not carry."""
    return isinstance(value, int) and not isinstance(value, bool)


def _matches(_validator: object, pattern: str, value: object, _schema: object) -> Iterator[jsonschema.ValidationError]:
    """All of the text: Python's own `$` lets a final newline pass, and an id with one would be another id."""
    if isinstance(value, str) and re.fullmatch(pattern, value) is None:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


_Validator: Any = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    validators={"pattern": _matches},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)
_validator = _Validator(SCHEMA)


def _shape_faults(value: Any) -> Iterator[tuple[Path, str]]:
    for error in _validator.iter_errors(value):
        path: Path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            for extra in error.instance:
                if extra not in error.schema.get("properties", {}):
                    yield (*path, extra), _unknown(extra, error.instance, error.schema)
        elif error.validator == "required":
            missing = [field for field in error.validator_value if field not in error.instance]
            # One error comes per missing field: jsonschema names it only in its message.
            field = next((field for field in missing if error.message.startswith(repr(field))), missing[0])
            yield path, f"{field!r} is missing; expected {_expected(error.schema)}"
        elif error.parent is None and "propertyNames" in error.absolute_schema_path:
            yield (
                (*path, error.instance),
                f"{_shown(error.instance)} can't be a key; expected {_expected(error.schema)}",
            )
        else:
            yield path, f"{_shown(error.instance)} can't be used; expected {_expected(error.schema)}"


def _unknown(field: str, instance: dict[str, Any], schema: dict[str, Any]) -> str:
    kind = instance.get("kind")
    if field in ("per", "max_values") and isinstance(kind, str) and kind in _APART:
        return _APART[kind]
    return f"unknown field; known here are {', '.join(schema['properties'])}"


def _expected(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "what the schema says"))


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
