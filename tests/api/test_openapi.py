"""The document describes the API that runs: every route is in it, and what it promises is what comes."""

from __future__ import annotations

import copy

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from litestar import Litestar
from litestar.routes import HTTPRoute
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from spendgate_daemon.api import openapi
from spendgate_daemon.api.decisions import Decisions
from spendgate_daemon.api.openapi import openapi_document
from spendgate_daemon.api.openapi.operations import OPERATIONS
from spendgate_daemon.api.reservations import Reservations
from spendgate_daemon.api.routes import route_handlers

PUBLIC = {"/healthz", "/readyz", "/webhooks/usagebox", "/v1/sessions"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN = {"customer_id": ["acme"], "meter": ["tokens", "ai_agent_run"], "plan": ["basic"], "key": ["billing.hard-stop"]}
ALL_KINDS = list(HealthCheck)


def sampled_document() -> dict:
    """The document with ids that exist, so that tries get further than a 404."""
    document = copy.deepcopy(openapi_document())
    document["info"]["title"] = "sampled"
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in KNOWN:
                    parameter["schema"] = {"enum": KNOWN[parameter["name"]]}
    for name in ("UsageEvent", "NewReservation", "NewOverride", "CustomerTerms"):
        properties = document["components"]["schemas"][name]["properties"]
        properties |= {field: {"enum": values} for field, values in KNOWN.items() if field in properties}
    expires = document["components"]["schemas"]["NewOverride"]["properties"]["expires_at"]
    expires["format"] = "text"
    return document


SAMPLED = schemathesis.openapi.from_dict(sampled_document())
TRIED = {operation.label: operation for operation in (found.ok() for found in SAMPLED.get_all_operations())}


def test_every_route_is_described_with_its_scope(standing_api):
    app = Litestar(route_handlers=[*route_handlers(standing_api.services), *openapi.handlers()], openapi_config=None)
    routes = {
        (method, route.path_format): handler.opt.get("scope")
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path_format != "/schema"
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS"}
    }
    decisions = Decisions(standing_api.services)
    fast = {**decisions.routes(), **Reservations(standing_api.services, decisions).routes()}
    routes |= {("POST", path): "usage" if path.endswith("usage") else "decide" for path in fast}
    assert {(each.method.upper(), each.path): each.scope for each in OPERATIONS} == routes


def test_the_shapes_are_good_schemas():
    document = openapi_document()
    assert document["openapi"].startswith("3.1")
    for shape in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(shape)
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_every_route_but_the_public_ones_needs_a_key(standing_api):
    paths = standing_api.get("/schema/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            response = standing_api.http.request(method, path.replace("{", "").replace("}", ""))
            assert (operation["security"] == []) is (path in PUBLIC)
            if path not in PUBLIC:
                assert response.status_code == 401, (method, path, response.text)


def test_a_key_does_what_its_scope_says_and_nothing_else(standing_api):
    scopes = ("decide", "usage", "read", "flags", "override", "admin")
    for operation in OPERATIONS:
        if not operation.scope:
            continue
        for scope in scopes:
            path = operation.path.replace("{", "").replace("}", "")
            response = standing_api.http.request(operation.method, path, headers=standing_api.headers(scope), json=[])
            allowed = scope in (operation.scope, "admin")
            assert (response.status_code != 403) is allowed, (operation.name, scope, response.text)


def test_any_key_may_read_the_document(standing_api):
    for scope in standing_api.keys:
        assert standing_api.get("/schema/openapi.json", scope=scope).json() == openapi_document()
    assert standing_api.get("/schema").json() == openapi_document()


@pytest.fixture(scope="module")
def busy_api(standing_api):
    standing_api.decide(5, event_id="first")
    standing_api.relay_all()
    return standing_api


@pytest.mark.parametrize("label", TRIED)
def test_what_the_document_promises_is_what_comes(busy_api, label):
    @settings(max_examples=12, deadline=None, suppress_health_check=ALL_KINDS, phases=[Phase.generate], database=None)
    @given(TRIED[label].as_strategy())
    def trying(case):
        response = case.call(base_url=busy_api.url, headers=busy_api.headers("admin"))
        case.validate_response(response, checks=CHECKS)

    trying()


def test_real_answers_are_as_described(api):
    api.contract()
    answers = {
        "Decision": api.decide(990, metadata={"model": "claude-5", "context_window": 5}),
        "CustomerRow": None,
    }
    api.decide(100)
    api.relay_all()
    answers |= {
        "StoredDecision": api.get(f"/v1/decisions/{answers['Decision']['decision_id']}").json(),
        "Decisions": api.get("/v1/decisions").json(),
        "Customers": api.get("/v1/customers").json(),
        "Customer": api.get("/v1/customers/acme").json(),
        "Usage": api.get("/v1/customers/acme/usage", meter="tokens").json(),
        "GuardrailEvents": api.get("/v1/guardrail-events").json(),
        "Summary": api.get("/v1/summary").json(),
        "Sync": api.get("/v1/sync").json(),
        "Problem": api.get("/v1/customers/nobody").json(),
    }
    answers["CustomerRow"] = answers["Customers"]["items"][0]
    document = openapi_document()
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        errors = [
            f"{name}: {error.json_path} {error.message}" for error in Draft202012Validator(schema).iter_errors(answer)
        ]
        assert errors == []
