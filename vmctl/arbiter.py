"""The arbiter: an etcd cluster that lends each service to one server at a time.

A service has two keys below `PREFIX/NETWORK/SERVICE/`. `holder` holds the name of the server that has the service and
goes away with its lease; `epoch` holds the number of the newest epoch ever and stays. Both are written together, in a
transaction that holds only if neither was written since it was read: so of two servers one gets the service, and a
request that was held up somewhere on its way and comes after a later one changes nothing any more.

A renewal does not keep a lease alive: it takes a new one and moves the key to it. A kept-alive lease is known to the
leader of the cluster only; a leader that was replaced without knowing it yet, because it stood still, would prolong it
without the others, or take away what the others have prolonged (etcd before 3.4.31 and 3.5.13). A new lease is granted
by the majority, and an old one that nothing hangs on runs out by itself.

The requests are those of etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/): keys and values
in base64, 64-bit numbers as strings, fields that are zero left out.
"""

from __future__ import annotations

import base64
import json
import math
import ssl
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from vmctl.clock import Clock
from vmctl.errors import ArbiterNotInstalled, ArbiterUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from etcd3gw.client import Etcd3Client

    from vmctl import config

_PORTS = {"http": 80, "https": 443}
_CONNECTING = 1 / 3  # the share of a request's time in which the connection must be there
_MOST_EPOCHS = 2**53  # numbers below it are those that every JSON reader can hold
_ODD = (ValueError, LookupError, TypeError, AttributeError)  # what comes of an answer that is not etcd's


class Grant(NamedTuple):
    """The arbiter's word on a service.

    `server` has it, None: nobody. `number` is that of the newest epoch ever, also when nobody has it; 0: there was
    none. `ttl` is how many seconds the lease lasts, from some moment after the question was sent; 0.0 if not `mine`.
    """

    mine: bool
    server: str | None
    number: int
    ttl: float


class Arbiter:
    """What one server asks the cluster; one object for each process. Methods may be called from any thread.

    A method ends within about `timeout` seconds and raises ArbiterUnreachable when no endpoint gave an answer: then it
    may have been done all the same, and asking again does no harm. The endpoints share the time that is left, the one
    that answered last comes first. (Looking up a name has no time limit: endpoints are best given as addresses.)
    """

    def __init__(self, config: config.Arbiter, network: str, *, timeout: float) -> None:
        """Nothing is asked yet. Raises ArbiterNotInstalled where the extra `etcd` is not installed."""
        try:
            from etcd3gw.client import Etcd3Client
            from etcd3gw.exceptions import Etcd3Exception
        except ImportError as error:
            raise ArbiterNotInstalled("the package that asks the arbiter is not installed", why=str(error)) from error
        self._new_client, self._refused = Etcd3Client, Etcd3Exception
        self._config = config
        self._prefix = f"{config.prefix}/{network}"
        self._timeout = timeout
        self._first = 0

    def acquire(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """Take the service for `ttl` seconds if nobody has it, or if this server has it already.

        The epoch that begins then is above `number`, the newest that this server knows, and above all that ever were.
        """

        def step(etcd: _Endpoint) -> Grant | None:
            known = etcd.read(service)
            if known.server not in {None, server}:
                return known.grant
            return etcd.lend(known, server, max(number, known.number) + 1, ttl)

        return self._ask(step)

    def renew(self, service: str, server: str, number: int, ttl: float) -> Grant:
        """Keep the service for another `ttl` seconds, and let the newest epoch be `number` at least.

        It is not `mine` if the lease ran out meanwhile, or somebody else has the service: then nothing changes.
        """

        def step(etcd: _Endpoint) -> Grant | None:
            known = etcd.read(service)
            if known.server != server:
                return known.grant
            return etcd.lend(known, server, max(number, known.number), ttl)

        return self._ask(step)

    def release(self, service: str, server: str) -> None:
        """Give the service back at once, if this server has it."""

        def step(etcd: _Endpoint) -> Grant | None:
            known = etcd.read(service)
            if known.server != server:
                return known.grant
            return etcd.free(known)

        self._ask(step)

    def read(self, service: str) -> Grant:
        """Who has the service; it is `mine` in no case, as nobody asks for it."""
        return self._ask(lambda etcd: etcd.read(service).grant)

    def _ask(self, step: Callable[[_Endpoint], Grant | None]) -> Grant:
        """The answer of the first endpoint that gives one; None of a step: somebody was faster, look again."""
        clock = Clock()
        end = clock.steady() + self._timeout
        urls = self._config.endpoints
        refused = []
        for tried in range(len(urls)):
            at = (self._first + tried) % len(urls)
            now = clock.steady()
            until = now + (end - now) / (len(urls) - tried)
            try:
                with closing(_Endpoint(self._client(urls[at]), self._prefix, until)) as etcd:
                    while (grant := step(etcd)) is None:
                        pass
            except (self._refused, OSError, *_ODD) as error:
                refused.append(f"{urls[at]}: {_words(error)}")
                continue
            self._first = at
            return grant
        raise ArbiterUnreachable("the arbiter gives no answer", why="; ".join(refused) or "it has no endpoints")

    def _client(self, url: str) -> Etcd3Client:
        """A client of its own for each call: a connection that was kept may have died without a word."""
        parts, own = urlsplit(url), self._config
        client = self._new_client(
            host=str(parts.hostname),
            port=parts.port or _PORTS[parts.scheme],
            protocol=parts.scheme,
            ca_cert=str(own.ca) if own.ca else _system_certificates(),
            cert_cert=str(own.cert) if own.cert else None,
            cert_key=str(own.cert_key) if own.cert_key else None,
            api_path=f"{parts.path.rstrip('/')}/v3/",
        )
        client.session.trust_env = False  # no proxy, certificates or passwords that this process' environment names
        client.session.max_redirects = 0
        return client


class _Known(NamedTuple):
    """What both keys hold, and when they were last written; revision 0: the key is not there."""

    service: str
    server: str | None
    number: int
    held_at: int
    numbered_at: int

    @property
    def grant(self) -> Grant:
        return Grant(mine=False, server=self.server, number=self.number, ttl=0.0)


class _Endpoint:
    """One endpoint for the time of one call. What it answers otherwise than etcd does raises one of _ODD."""

    def __init__(self, client: Etcd3Client, prefix: str, until: float) -> None:
        self._client = client
        self._prefix = prefix
        self._until = until
        self._steady = Clock().steady

    def close(self) -> None:
        self._client.session.close()

    def read(self, service: str) -> _Known:
        """Both keys, as the majority of the cluster has them."""
        end = self._key(service)[:-1] + b"0"  # the character after the slash: all keys below the service
        answer = self._post("kv/range", {"key": _base64(self._key(service)), "range_end": _base64(end)})
        found = {base64.b64decode(key["key"]): key for key in answer.get("kvs", [])}
        holder, epoch = (found.get(self._key(service, name), {}) for name in ("holder", "epoch"))
        return _Known(
            service,
            _value(holder) or None,
            _number(_value(epoch) or "0", _MOST_EPOCHS),
            _number(holder.get("mod_revision", 0)),
            _number(epoch.get("mod_revision", 0)),
        )

    def lend(self, known: _Known, server: str, number: int, ttl: float) -> Grant | None:
        """Give the service to `server` under a new lease; None if the keys are not as they were `known` any more."""
        lease = self._post("lease/grant", {"ID": 0, "TTL": math.ceil(ttl)})
        ident, granted = _number(lease["ID"]), _number(lease["TTL"])
        holder, epoch = self._key(known.service, "holder"), self._key(known.service, "epoch")
        done = self._write(
            known,
            {"request_put": {"key": _base64(holder), "value": _base64(server.encode()), "lease": ident}},
            {"request_put": {"key": _base64(epoch), "value": _base64(b"%d" % number)}},
        )
        # etcd may give more than was asked, its own least; who asked counts with the shorter one
        return Grant(mine=True, server=server, number=number, ttl=min(ttl, float(granted))) if done else None

    def free(self, known: _Known) -> Grant | None:
        """Take the service from its holder; None if the keys are not as they were `known` any more."""
        holder = self._key(known.service, "holder")
        done = self._write(known, {"request_delete_range": {"key": _base64(holder)}})
        return known._replace(server=None).grant if done else None

    def _write(self, known: _Known, *requests: dict[str, Any]) -> bool:
        """Whether the requests were done: all of them, or none if a key was written since it was `known`."""
        seen = {"holder": known.held_at, "epoch": known.numbered_at}
        compare = [
            {"target": "MOD", "result": "EQUAL", "key": _base64(self._key(known.service, name)), "mod_revision": at}
            for name, at in seen.items()
        ]
        return self._post("kv/txn", {"compare": compare, "success": list(requests)}).get("succeeded") is True

    def _key(self, service: str, name: str = "") -> bytes:
        return f"{self._prefix}/{service}/{name}".encode()

    def _post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Nothing is sent once the time is over: what would be done then, nobody waits for."""
        left = self._until - self._steady()
        if left <= 0:
            raise TimeoutError(_LATE)
        # the times to connect and to wait for an answer, as requests takes them
        self._client.timeout = (left * _CONNECTING, left * (1 - _CONNECTING))  # type: ignore[assignment]
        answer: dict[str, Any] = self._client.post(self._client.get_url(path), json=request)
        return answer


_LATE = "no answer in time"


def _system_certificates() -> str | None:
    """The file or directory that OpenSSL trusts here; the package would take a list of its own."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _value(key: dict[str, Any]) -> str:
    return base64.b64decode(key.get("value", "")).decode("utf-8", "replace")


def _number(value: Any, end: int = 2**63) -> int:
    number = int(value)
    if not 0 <= number < end:
        raise ValueError(f"a number that cannot be, {number}")
    return number


def _words(error: Exception) -> str:
    """What an endpoint said, or why it said nothing, in a few words."""
    said = getattr(error, "detail_text", None) or str(error)
    if error.args and said.startswith('{"error"'):
        return str(json.loads(said)["error"])[:200]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return _LATE
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return f"it does not answer as etcd does ({type(error).__name__}: {said[:200]})"
