"""Who is asking, and whether they may use this endpoint. The first of all checks."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum

from starlette.datastructures import Headers, QueryParams

from sandfleet.controlplane.http.credentials import Credential, CredentialKind, find_credential
from sandfleet.controlplane.http.keys import KeyRing
from sandfleet.controlplane.tokens import TokenSigner
from sandfleet.model.errors import Forbidden, Unauthorised
from sandfleet.model.ids import KeyId, OrganisationId
from sandfleet.model.organisation import Scope


class Access(StrEnum):
    """What an endpoint asks of its caller."""

    OPEN = "open"
    ORGANISATION = "organisation"
    DATA_PLANE = "data_plane"
    SOCKET = "socket"
    """The data plane's sockets: browsers send no header with them, so the query may always hold a key."""
    ADMIN = "admin"
    METRICS = "metrics"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: an organisation, and the key if it was a key."""

    organisation_id: OrganisationId
    scopes: frozenset[Scope]
    key_id: KeyId | None = None

    @property
    def is_admin(self) -> bool:
        """Whether it may see the whole fleet."""
        return Scope.ADMIN in self.scopes

    @property
    def actor(self) -> str:
        """Its name in the transition log."""
        return f"key:{self.key_id}" if self.key_id else "sandbox-token"


class Authenticator:
    """Checks credentials against keys and the token signer."""

    def __init__(self, keys: KeyRing, tokens: TokenSigner, *, query_key: bool, join_token: str) -> None:
        self._keys = keys
        self._tokens = tokens
        self._query_key = query_key
        self._join_token = join_token

    async def authenticate(
        self, access: Access, headers: Headers, query: QueryParams, *, sandbox_id: str | None, is_get: bool
    ) -> Principal | None:
        """Return the caller, None on open endpoints; Unauthorised or Forbidden."""
        if access is Access.OPEN:
            return None
        if access is Access.WORKER:
            self._check_join_token(headers)
            return None
        is_admin_get = access in (Access.ADMIN, Access.METRICS) and is_get
        query_key = self._query_key or access is Access.SOCKET
        credential = find_credential(headers, query, query_key=query_key, admin_get=is_admin_get)
        if credential.kind is CredentialKind.TOKEN:
            return self._by_token(credential, access, sandbox_id=sandbox_id)
        key = await self._keys.find(credential.value)
        if access in (Access.ADMIN, Access.METRICS) and Scope.ADMIN not in key.scopes:
            raise Forbidden("admin scope required")
        if not key.scopes & {Scope.ORG, Scope.ADMIN}:
            raise Forbidden("org scope required")
        return Principal(key.organisation_id, key.scopes, key.id)

    def _by_token(self, credential: Credential, access: Access, *, sandbox_id: str | None) -> Principal:
        claims = self._tokens.verify_sandbox_token(credential.value)
        if access not in (Access.DATA_PLANE, Access.SOCKET) or claims.sandbox_id != sandbox_id:
            raise Forbidden("token not valid for this sandbox", code="token_scope")
        return Principal(claims.organisation_id, frozenset())

    def _check_join_token(self, headers: Headers) -> None:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not value:
            raise Unauthorised("missing join token")
        if not hmac.compare_digest(value.strip().encode(), self._join_token.encode()):
            raise Forbidden("invalid join token", code="forbidden")
