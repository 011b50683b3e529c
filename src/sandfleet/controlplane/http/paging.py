"""Lists: `?limit`, an opaque `?cursor`, and the `Link` to the next page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import QueryParams

from sandfleet.controlplane.http.redaction import SECRET_QUERY
from sandfleet.model.errors import BadRequest

if TYPE_CHECKING:
    from sandfleet.controlplane.http.call import Call

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
R = TypeVar("R")
Place = Callable[[R], tuple[datetime, str]]
"""Where a row stands in its list: newest first, and of one instant the higher id."""


def page_limit(query: QueryParams, *, usual: int = LIMIT_DEFAULT, most: int = LIMIT_MAX) -> int:
    """Return `limit`, 1 to `most`; BadRequest for what is no positive number."""
    text = query.get("limit")
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit()) or len(text) > 30 or int(text) < 1:
        raise BadRequest("limit must be a positive number", code="invalid_argument")
    return min(int(text), most)


def encode_cursor(moment: datetime, record_id: str) -> str:
    """Return the opaque form of the last row of a page."""
    text = f"{moment.astimezone(UTC).isoformat()} {record_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> tuple[datetime, str] | None:
    """Return what `encode_cursor` was given; BadRequest for anything else."""
    if not text:
        return None
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        moment, _, record_id = plain.partition(" ")
        at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error) as error:
        raise BadRequest("cursor is not one of this server's", code="invalid_argument") from error
    if at.tzinfo is None or not record_id.replace("-", "").isalnum():
        raise BadRequest("cursor is not one of this server's", code="invalid_argument")
    return at, record_id


def next_link(origin: str, path: str, raw_query: str, *, cursor: str) -> Mapping[str, str]:
    """Return the `Link` header of a page that is not the last; a credential in the query is left out."""
    kept = [
        (name, value)
        for name, value in parse_qsl(raw_query, keep_blank_values=True)
        if name != "cursor" and name not in SECRET_QUERY
    ]
    return {"Link": f'<{origin}{quote(path)}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}


def first_of_rest(
    call: Call, found: Sequence[R], *, limit: int, place: Place[R]
) -> tuple[Sequence[R], Mapping[str, str]]:
    """Return the page and its headers, of rows of which one more was asked for than the page has."""
    page = found[:limit]
    if len(found) <= limit:
        return page, {}
    query = call.scope["query_string"].decode("latin-1")
    cursor = encode_cursor(*place(page[-1]))
    return page, next_link(call.origin, call.scope["path"], query, cursor=cursor)


def page_of(call: Call, rows: Sequence[R], *, place: Place[R]) -> tuple[Sequence[R], Mapping[str, str]]:
    """Return the page that is asked for, and its headers, of a list that was read whole."""
    limit, cursor = page_limit(call.query), decode_cursor(call.query.get("cursor"))
    newest_first = sorted(rows, key=place, reverse=True)
    rest = [row for row in newest_first if cursor is None or place(row) < cursor]
    return first_of_rest(call, rest, limit=limit, place=place)
