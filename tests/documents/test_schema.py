"""The published schema and the values a document becomes: one can't change without the other."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given, settings

from policy_documents import policy_documents
from spendgate_daemon.documents import SCHEMA, load_default
from spendgate_daemon.documents.document import (
    ConcurrencyRule,
    CreditsRule,
    Defaults,
    Meter,
    PerEventRule,
    Plan,
    PolicyDocument,
    QuotaRule,
    RateRule,
    Reservations,
)

DEFINED = SCHEMA["$defs"]


@pytest.mark.parametrize(
    ("struct", "schema"),
    [
        (PolicyDocument, SCHEMA),
        (Meter, DEFINED["meter"]),
        (Defaults, DEFINED["defaults"]),
        (Plan, DEFINED["plan"]),
        (QuotaRule, DEFINED["quota"]),
        (CreditsRule, DEFINED["credits"]),
        (Reservations, DEFINED["reservations"]),
        (RateRule, DEFINED["rate"]),
        (ConcurrencyRule, DEFINED["concurrency"]),
        (PerEventRule, DEFINED["per_event"]),
    ],
)
def test_schema_and_values_have_the_same_fields(struct, schema):
    fields = {field.name: field.required for field in msgspec.structs.fields(struct)}
    for made in ("digest", "text") if struct is PolicyDocument else ():
        fields.pop(made)
    if "kind" in schema["properties"]:
        fields["kind"] = True
    assert set(schema["properties"]) == set(fields)
    assert set(schema.get("required", ())) == {name for name, required in fields.items() if required}
    assert schema["additionalProperties"] is False


def test_the_schema_is_one_and_every_kind_is_reachable():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert DEFINED["kind"]["enum"] == ["quota", "credits", "rate", "concurrency", "per_event"]
    assert [branch["then"]["$ref"] for branch in DEFINED["limit"]["allOf"]] == [
        f"#/$defs/{kind}" for kind in DEFINED["kind"]["enum"]
    ]


def test_every_property_tells_what_is_expected():
    def visit(schema, path):
        for name, inner in schema.get("properties", {}).items():
            assert "description" in inner or "$ref" in inner, f"{path}.{name}"
            visit(inner, f"{path}.{name}")

    visit(SCHEMA, "document")
    for name, schema in DEFINED.items():
        assert "description" in schema, name
        visit(schema, name)


@settings(deadline=None)
@given(policy_documents())
def test_another_validator_accepts_every_document_that_ours_does(document):
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(document.text))


def test_another_validator_accepts_the_default_document():
    """Editors validate with the schema and any YAML library; ours is not special."""
    text = files("spendgate_daemon.documents").joinpath("default.yaml").read_text(encoding="utf-8")
    value = yaml.safe_load(text)
    jsonschema.Draft202012Validator(SCHEMA).validate(value)
    ours = msgspec.to_builtins(load_default())
    assert ours["plans"].keys() == value["plans"].keys()
    assert json.loads(json.dumps(value))["meters"] == ours["meters"]
