"""What every request gets before and after it is served: an id, CORS headers, a log line, a measurement."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence

from starlette.types import Message, Scope, Send

from sandfleet.controlplane.http.drain import Drain
from sandfleet.controlplane.http.log_lines import RequestLine, access_log
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.http.redaction import redact_query, redact_text
from sandfleet.ports.clock import Clock
from sandfleet.wire.public_api import format_time

REQUEST_ID = b"x-request-id"
UNROUTED = "unrouted"
CLIENT_LEFT = 499
SWITCHED = 101
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_KNOWN_METHODS = frozenset(METHODS.split(", "))
QUIET_ROUTES = frozenset({"/health", "/healthz", "/readyz", "/metrics", "/internal/workers/{id}/heartbeat"})
_CORS: Sequence[tuple[bytes, bytes]] = (
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Link, Retry-After, X-Request-Id, X-Exec-Offset, Idempotency-Replayed",
    ),
)
_CLOSE = (b"connection", b"close")
_ID_FORM = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that lower-case name."""
    return next((value for header, value in scope["headers"] if header == name), None)


class Observed:
    """One request under observation; its `send` adds what belongs to every answer."""

    def __init__(self, scope: Scope, send: Send, *, clock: Clock, metrics: Metrics, drain: Drain) -> None:
        given = header_of(scope, REQUEST_ID)
        is_usable = given is not None and _ID_FORM.fullmatch(given) is not None
        self.request_id = given.decode() if given is not None and is_usable else secrets.token_hex(16)
        self.route = UNROUTED
        self.is_foreign = False
        """Whether the answer is an application's own, to which nothing is added."""
        self._scope = scope
        self._send = send
        self._clock = clock
        self._metrics = metrics
        self._drain = drain
        self._began = clock.monotonic()
        self._status = CLIENT_LEFT

    async def send(self, message: Message) -> None:
        """Send, with the request id and the CORS headers in the head."""
        if message["type"] == "websocket.accept":
            self._status = SWITCHED
            if not self.is_foreign:
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, self.request_id.encode())]
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
            if not self.is_foreign:
                message["headers"] = [
                    *message.get("headers", ()),
                    (REQUEST_ID, self.request_id.encode()),
                    *_CORS,
                ]
        if message["type"] == "http.response.start" and self._drain.is_draining:
            # Whoever keeps connections (a load balancer) must not send into one that is about to close.
            kept = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
            message["headers"] = [*kept, _CLOSE]
        await self._send(message)

    def end(self) -> None:
        """Measure and log the request."""
        seconds = self._clock.monotonic() - self._began
        asked = self._scope.get("method", "GET")
        method = asked if asked in _KNOWN_METHODS else "other"
        self._metrics.request_ended(self.route, method, self._status, seconds=seconds)
        level = logging.DEBUG if self.route in QUIET_ROUTES else logging.INFO
        if access_log.takes(level):
            access_log.write(self._line(method, level=level, seconds=seconds))

    def _line(self, method: str, *, level: int, seconds: float) -> RequestLine:
        query = self._scope["query_string"]
        return RequestLine(
            timestamp=format_time(self._clock.now()),
            level="debug" if level == logging.DEBUG else "info",
            method=method,
            path=redact_text(self._scope["path"]),
            query=redact_query(query.decode("latin-1")) if query else "",
            route=self.route,
            status=self._status,
            ms=round(seconds * 1000, 2),
            request_id=redact_text(self.request_id),
        )


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what it may send."""
    return scope["method"] == "OPTIONS" and header_of(scope, b"access-control-request-method") is not None


async def answer_preflight(scope: Scope, send: Send) -> None:
    """Allow every origin, method and header. A star would leave out `Authorization`."""
    asked = header_of(scope, b"access-control-request-headers")
    headers = [
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", asked if asked is not None else b"*"),
        (b"access-control-max-age", b"86400"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
