"""What a Redis URL says.

`redis://`, `rediss://` (TLS) and `unix://` mean what redis-py says, its `ssl_*` options included. Two schemes are ours,
each with its TLS variant:

    redis+cluster://user:password@host:port,host2:port2
    redis+sentinel://user:password@host:port,host2:port2/SERVICE/DB?sentinel_username=...&sentinel_password=...

User and password are those of Redis; the Sentinels have their own, or none. An account needs EVALSHA, EVAL and GET, with
Sentinels ROLE too, with a Cluster CLUSTER and ASKING too, besides what the scripts call. With FCALL and FUNCTION LOAD as well,
a decision costs Redis a third less.

No error quotes the URL: it may hold a password, and in a malformed one the password may be anywhere.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
import redis.asyncio.connection
import redis.connection
import redis.exceptions

from spendgate.transports.endpoint import Endpoint
from spendgate.transports.session import Session

Kind = Literal["single", "cluster", "sentinel"]

_SCHEMES: Final[Mapping[str, tuple[str, Kind]]] = {
    "redis": ("redis", "single"),
    "rediss": ("rediss", "single"),
    "unix": ("unix", "single"),
    "redis+cluster": ("redis", "cluster"),
    "rediss+cluster": ("rediss", "cluster"),
    "redis+sentinel": ("redis", "sentinel"),
    "rediss+sentinel": ("rediss", "sentinel"),
}
_SESSION_OPTIONS: Final = frozenset({"username", "password", "db", "client_name"})
_PLACE_OPTIONS: Final = frozenset({"host", "port", "path"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_REDIS_PY_ONLY: Final = frozenset(
    {
        *("socket_timeout", "socket_connect_timeout", "timeout", "socket_read_size", "socket_keepalive"),
        *("max_connections", "health_check_interval", "retry_on_timeout", "retry_on_error", "protocol"),
    }
)
"""How redis-py pools and waits. The timeout is given beside the URL, so these have no meaning here."""


class Address(msgspec.Struct, frozen=True):
    """A parsed URL. `endpoints` are the Redis itself, nodes of the cluster, or the Sentinels of `service`.

    `tls_options` are what `tls` of the sessions was made of, for redis-py's own connections; None without TLS.
    """

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    session: Session
    service: str = ""
    sentinel_session: Session = Session()
    tls_options: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """Without what the TLS options hold, the password of a key among them."""
        return f"Address({self.kind}, {', '.join(map(str, self.endpoints))}, {self.session!r})"


def parse_address(url: str) -> Address:
    """Raises ValueError when the URL is malformed, names an unknown option or certificates that can't be read."""
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        raise ValueError(f"a Redis URL starts with one of {', '.join(f'{known}://' for known in _SCHEMES)}")
    plain_scheme, kind = _SCHEMES[scheme]
    try:
        plain_url, hosts, service = _taken_apart(url, plain_scheme, kind)
        options: dict[str, Any] = redis.connection.parse_url(plain_url)  # type: ignore[no-untyped-call]
        options.pop("connection_class", None)
        endpoints = _endpoints(kind, options, hosts)
    except ValueError:
        raise ValueError(
            "the Redis URL is malformed: a port or an option is no number, or a special character of the password "
            "is not percent-encoded"
        ) from None
    tls_options = {name: value for name, value in options.items() if name.startswith("ssl_")}
    allowed = _SESSION_OPTIONS | _PLACE_OPTIONS | _REDIS_PY_ONLY | (_SENTINEL_OPTIONS if service else set())
    if not allowed.issuperset(options.keys() - tls_options.keys()) or (tls_options and plain_scheme != "rediss"):
        raise ValueError(f"the Redis URL has an option that {scheme}:// does not know: {', '.join(sorted(allowed))}")
    if kind == "cluster" and options.get("db"):
        raise ValueError("a Redis Cluster has database 0 only")
    tls = _tls(tls_options) if plain_scheme == "rediss" else None
    stated = {name: options[name] for name in _SESSION_OPTIONS if name in options}
    session = Session(**stated, tls=tls, masters_only=kind == "sentinel")
    sentinels = Session(options.get("sentinel_username"), options.get("sentinel_password"), tls=tls)
    return Address(kind, endpoints, session, service, sentinels, None if tls is None else tls_options)


def _taken_apart(url: str, plain_scheme: str, kind: Kind) -> tuple[str, list[str], str]:
    """A URL that redis-py reads, all hosts, and the service of Sentinels."""
    if kind == "single":
        return url, [], ""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    service, path = "", parts.path
    if kind == "sentinel":
        _, service, *rest = path.split("/")
        database = "".join(rest)
        if not service or (database and not database.isdecimal()):
            raise ValueError
        path = f"/{database}"
    first, *others = hosts.split(",")
    plain_url = urlunsplit((plain_scheme, user + at + first, path, parts.query, ""))
    return plain_url, [first, *others], unquote(service)


def _endpoints(kind: Kind, options: Mapping[str, Any], hosts: list[str]) -> tuple[Endpoint, ...]:
    if kind == "single":
        return (Endpoint(**{name: options[name] for name in ("host", "port", "path") if name in options}),)
    default_port = 26379 if kind == "sentinel" else 6379
    split = [urlsplit(f"//{host}") for host in hosts]
    return tuple(Endpoint(unquote(host.hostname or "localhost"), host.port or default_port) for host in split)


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """redis-py reads the options, so that they mean the same."""
    try:
        return redis.asyncio.connection.SSLConnection(**options).ssl_context.get()
    except (OSError, ValueError, TypeError, redis.exceptions.RedisError) as exc:
        raise ValueError(f"the ssl_ options of the Redis URL can't be used: {exc}") from exc
