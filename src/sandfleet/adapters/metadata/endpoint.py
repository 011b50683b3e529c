"""The endpoint that a cloud has on each of its machines: plain HTTP, short answers, no credentials."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp

from sandfleet.model.errors import Unavailable

USUAL_URL = "http://169.254.169.254"
TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 256 * 1024


class Refused(Unavailable):
    """It answered that the caller has no right to ask: a token has run out."""


class MetadataEndpoint:
    """Asks, and takes whatever is no answer for one that did not come."""

    def __init__(self, session: aiohttp.ClientSession, *, url: str = USUAL_URL) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def ask(self, path: str, *, headers: Mapping[str, str], method: str = "GET") -> bytes | None:
        """Return the body, None when there is nothing of that name; Unavailable, Refused."""
        try:
            async with self._session.request(
                method,
                f"{self._url}{path}",
                headers=dict(headers),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                if response.status == HTTPStatus.NOT_FOUND:
                    return None
                if response.status == HTTPStatus.UNAUTHORIZED:
                    raise Refused(f"{path}: status 401")
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"{path}: status {response.status}")
                return await _body(response, path)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error


async def _body(response: aiohttp.ClientResponse, path: str) -> bytes:
    body = b""
    async for part in response.content.iter_chunked(64 * 1024):
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise Unavailable(f"{path}: its answer is longer than {ANSWER_BYTES_MAX} bytes")
    return body


def time_of(text: str) -> datetime:
    """Return a time in the form of mails, with or without a day of the week; Unavailable."""
    try:
        at = parsedate_to_datetime(text)
    except ValueError as error:
        raise Unavailable(f"{text!r} is no time") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
