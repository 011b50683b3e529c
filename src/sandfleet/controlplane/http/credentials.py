"""Which credential a request carries, and where it may stand. Decides nothing about its worth.

Facts: a value with exactly two dots is a token, keys contain no dot. The Python client's
terminal puts the token where a key stands, so both places are looked at for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from starlette.datastructures import Headers, QueryParams

from sandfleet.model.errors import Unauthorised


class CredentialKind(StrEnum):
    """What was sent."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 -- the name of a kind, not a secret


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as it was sent."""

    kind: CredentialKind
    value: str = field(repr=False)


def is_token(value: str) -> bool:
    """Whether the value has the form of a token."""
    return value.count(".") == 2


def find_credential(
    headers: Headers, query: QueryParams, *, query_key: bool, admin_get: bool = False
) -> Credential:
    """Return the request's credential, looked for in a fixed order; Unauthorised without one."""
    value = headers.get("x-api-key")
    if not value and query_key:
        value = query.get("api_key")
    if not value and admin_get and query_key:
        value = query.get("key")
    if value:
        return Credential(CredentialKind.TOKEN if is_token(value) else CredentialKind.KEY, value)
    bearer = _bearer(headers)
    if bearer:
        return Credential(CredentialKind.TOKEN, bearer)
    token = query.get("token")
    if token:
        return Credential(CredentialKind.TOKEN, token)
    raise Unauthorised("missing API key")


def _bearer(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        return None
    return value.strip()
