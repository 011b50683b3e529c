"""Lists: `?limit`, an opaque `?cursor`, and the `Link` to the next page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import QueryParams

from sandfleet.controlplane.http.redaction import SECRET_QUERY
from sandfleet.model.errors import BadRequest

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000


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
