"""Redis, the store or the daemon's work is missing: 503 problems that say what, and what still works."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
import pytest
import sqlalchemy as sa
from httpx import ASGITransport, AsyncClient

from proxy import Proxy
from spendgate import Gate
from spendgate.control import Control
from spendgate_daemon.api import create_app

EVENT = {"customer_id": "acme", "meter": "tokens", "quantity": 1}
NOBODY = "redis://127.0.0.1:1/0"


def call(run, services, method, path, **given):
    async def once():
        async with AsyncClient(transport=ASGITransport(create_app(services)), base_url="http://api") as http:
            return await http.request(method, path, **given)

    return run(once())


@pytest.fixture
def without_redis(api):
    gate, control = Gate.from_url(NOBODY), Control.from_url(NOBODY)
    yield msgspec.structs.replace(api.services, gate=gate, decider=gate, control=control)
    api.run(gate.aclose())
    api.run(control.aclose())


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/decisions", "decide"),
        ("POST", "/v1/usage", "usage"),
        ("GET", "/v1/customers/acme", "read"),
        ("GET", "/v1/summary", "read"),
        ("GET", "/v1/sync", "read"),
    ],
)
def test_without_redis_nothing_is_decided_and_nothing_is_a_500(api, without_redis, method, path, scope):
    api.contract()
    answer = call(api.run, without_redis, method, path, headers=api.headers(scope), json=EVENT)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"


def test_without_redis_a_batch_tells_it_event_by_event(api, without_redis):
    answer = call(
        api.run, without_redis, "POST", "/v1/decisions/batch", headers=api.headers("decide"), json={"events": [EVENT]}
    )
    assert [result["status"] for result in answer.json()["results"]] == [503]


def test_in_an_outage_the_allowance_passes_and_the_rest_may_try_again(api, redis_url, tmp_path):
    """Over HTTP these are decisions like any other: 200, or 429 where a gateway asked for that."""
    api.contract()
    proxy = Proxy(urlsplit(redis_url).port)
    gate = Gate.from_url(f"redis://127.0.0.1:{proxy.port}/0", timeout_seconds=5, journal=tmp_path / "journal")
    assert gate.outage.wait_for_care(20)
    services = msgspec.structs.replace(api.services, decider=gate)
    headers = api.headers("decide")
    before = call(api.run, services, "POST", "/v1/decisions", headers=headers, json=EVENT).json()
    assert (before["degraded"], before["overshoot_bound"]) == (False, {})
    proxy.close()
    fits = call(api.run, services, "POST", "/v1/decisions", headers=headers, json=EVENT)
    assert (fits.status_code, fits.json()["decision"], fits.json()["degraded"]) == (200, "allow", True)
    assert all(bound > 0 for bound in fits.json()["overshoot_bound"].values())
    too_much = EVENT | {"quantity": 10**9}
    waits = call(
        api.run, services, "POST", "/v1/decisions", headers=headers | {"prefer": "status=gateway"}, json=too_much
    )
    assert waits.status_code in (402, 429), waits.text
    api.run(gate.aclose())


def test_readiness_says_which_part_fails_and_keeps_addresses_to_itself(api, without_redis):
    answer = call(api.run, without_redis, "GET", "/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["redis"] != "ok" != checks["policy"]
    assert checks["store"] == "ok"
    assert "127.0.0.1" not in answer.text
    ready = api.http.get("/readyz").json()
    assert ready["checks"] == {"redis": "ok", "policy": "ok", "store": "ok", "mirror": "never read"}


def test_before_the_daemon_ran_nothing_is_ready(api):
    api.run(api.control.redis.flushall())
    checks = api.http.get("/readyz").json()["checks"]
    assert (checks["redis"], checks["policy"][:18]) == ("ok", "no policy document")
    answer = api.post("/v1/decisions", EVENT)
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (503, "not-ready")


def test_without_the_store_known_keys_still_decide_and_reads_say_why_not(api):
    api.contract()
    api.decide()
    with api.store.database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE api_keys RENAME TO api_keys_gone"))
        connection.execute(sa.text("ALTER TABLE customers RENAME TO customers_gone"))
    later = msgspec.structs.replace(api.services, now_us=lambda: api.services.now_us() + 10_000_000)
    assert api.http.get("/v1/customers", headers=api.headers("read")).status_code == 503
    assert api.decide()["decision"] == "allow"
    unknown = call(api.run, later, "POST", "/v1/decisions", headers=api.headers("decide"), json=EVENT)
    assert unknown.status_code == 503, "this process never saw the key"
