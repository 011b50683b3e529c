"""One data-plane call: what its operation gets and what it may answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandfleet.model.errors import BadRequest, TooLarge
from sandfleet.ports.guest import Guest
from sandfleet.worker.host import Host
from sandfleet.worker.residents import Resident

JSON_TYPE = "application/json"
STALLED_AFTER_S = 300.0
"""A client that neither gives nor takes a byte for so long no longer holds the sandbox's activity."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request on a sandbox that is served here, inside its activity."""

    host: Host
    resident: Resident
    guest: Guest
    request: Request

    def query(self, name: str) -> str | None:
        """Return a query parameter; bytes that are not UTF-8 stay as surrogate escapes."""
        query = self.request.scope["query_string"].decode("ascii", "replace")
        values = parse_qs(query, keep_blank_values=True, errors="surrogateescape").get(name)
        return values[0] if values else None

    def path_value(self, name: str) -> str:
        """Return a part of the path."""
        value: str = self.request.path_params[name]
        return value

    async def body(self) -> bytes:
        """Return the whole body; one above the limit is `too_large`."""
        limit = self.host.limits.body_bytes_max
        return b"".join([chunk async for chunk in self.chunks(bytes_max=limit)])

    async def chunks(self, *, bytes_max: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes; refuse it as soon as it is known to be above the limit."""
        announced = self.request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > bytes_max:
            raise TooLarge(f"the body is larger than {bytes_max} bytes")
        received = 0
        stream = aiter(self.request.stream())
        while True:
            try:
                async with asyncio.timeout(STALLED_AFTER_S):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise BadRequest("the body stalled") from None
            received += len(chunk)
            if received > bytes_max:
                raise TooLarge(f"the body is larger than {bytes_max} bytes")
            if chunk:
                yield chunk


def json_answer(value: Any, *, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON_TYPE)


def no_content() -> Response:
    """Return 204."""
    return Response(status_code=204)


def printable(text: str) -> str:
    """Return text that JSON can carry: escaped bytes of a file name become replacements."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
