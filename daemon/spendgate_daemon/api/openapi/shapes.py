"""Short words for JSON Schema, so that a table of shapes reads like one."""

from __future__ import annotations

from typing import Any, Final

Shape = dict[str, Any]

TEXT: Final[Shape] = {"type": "string"}
WHOLE: Final[Shape] = {"type": "integer"}
NUMBER: Final[Shape] = {"type": "number"}
BOOLEAN: Final[Shape] = {"type": "boolean"}
INSTANT: Final[Shape] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Shape] = {}


def one_of(*words: str) -> Shape:
    return {"type": "string", "enum": list(words)}


def whole(minimum: int, maximum: int) -> Shape:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def text(minimum: int, maximum: int) -> Shape:
    return {"type": "string", "minLength": minimum, "maxLength": maximum}


def nullable(shape: Shape) -> Shape:
    """The shape, or null."""
    if isinstance(shape.get("type"), str) and "enum" not in shape:
        return shape | {"type": [shape["type"], "null"]}
    return {"anyOf": [shape, {"type": "null"}]}


def listed(item: Shape) -> Shape:
    return {"type": "array", "items": item}


def mapped(value: Shape) -> Shape:
    """An object with any keys and values of one shape."""
    return {"type": "object", "additionalProperties": value}


def known(name: str) -> Shape:
    """A shape of `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer(**fields: Shape) -> Shape:
    """An object that always has these fields; more may come in later versions."""
    return {"type": "object", "required": list(fields), "properties": fields}


def extended(name: str, **fields: Shape) -> Shape:
    """A known answer with more fields."""
    return {"allOf": [known(name), answer(**fields)]}


def request(*required: str, **fields: Shape) -> Shape:
    """An object that has no other fields than these."""
    shape = {"type": "object", "properties": fields, "additionalProperties": False}
    return shape | {"required": list(required)} if required else shape


def page(item: str) -> Shape:
    """A page of a list, and the cursor of the next one: null at the end."""
    return answer(items=listed(known(item)), next_cursor=nullable(TEXT))
