"""Request bodies: read within their bound, decoded whatever the content type says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from pydantic import ValidationError
from starlette.types import Receive

from sandfleet.model.errors import BadRequest, SandfleetError, TooLarge
from sandfleet.wire.public_api import RequestBody

B = TypeVar("B", bound=RequestBody)

DECODER = msgspec.json.Decoder()


class ClientGone(SandfleetError):
    """The client closed its connection before its body was complete: nobody waits for an answer."""

    code = "client_gone"


def announced_length(value: str | None, *, bytes_max: int) -> int | None:
    """Return the Content-Length; TooLarge before a byte of a body that is too long is read."""
    if value is None or not value.isdigit():
        return None
    length = int(value)
    if length > bytes_max:
        raise TooLarge(f"the body has {length} bytes, at most {bytes_max} are allowed")
    return length


async def body_pieces(receive: Receive, *, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; TooLarge above the bound, ClientGone when it breaks off."""
    seen = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed its connection")
        piece: bytes = message.get("body", b"")
        seen += len(piece)
        if seen > bytes_max:
            raise TooLarge(f"the body has more than {bytes_max} bytes")
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


async def read_body(receive: Receive, *, bytes_max: int) -> bytes:
    """Return the whole body."""
    pieces = [piece async for piece in body_pieces(receive, bytes_max=bytes_max)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parse_body(raw: bytes, kind: type[B]) -> B:
    """Decode a body into its model; BadRequest for what is not JSON or has a wrong type."""
    try:
        data = DECODER.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadRequest("the body is not valid JSON") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"field {where}: {first['msg'][:200]}") from error
