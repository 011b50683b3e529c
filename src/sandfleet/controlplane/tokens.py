"""Tokens of the fleet: EdDSA JWTs signed by one Ed25519 key that lives in the durable store.

Sandbox tokens name a sandbox and have no audience; fleet tokens have a worker as their
audience. Each kind refuses the other, so that a tenant's token opens no worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import KeySet, OKPKey
from joserfc.jws import JWSAlgModel, JWSRegistry  # type: ignore[attr-defined]

from sandfleet.model.errors import Unauthorised
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.ports.clock import Clock
from sandfleet.ports.stores import FleetSecretStore

ISSUER = "sandfleet"
ALGORITHM = "EdDSA"
SIGNING_KEY_NAME = "token-signing-key"
TOKENS_KEPT_MAX = 10_000
FLEET_RENEWED_AT = 0.5
SANDBOX_RENEWED_AT = 0.05
"""After which share of its life another token is signed: a signature costs more than all else of a read."""


class _OneAlgorithm(JWSRegistry):  # type: ignore[misc, unused-ignore]
    """Knows EdDSA only. The library warns of that name, which RFC 9864 splits up; here it means Ed25519."""

    def get_alg(self, name: str) -> JWSAlgModel:
        """Return the one algorithm, or refuse."""
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"algorithm {name} is not accepted")
        return self.algorithms[ALGORITHM]


_REGISTRY = _OneAlgorithm(algorithms=[ALGORITHM])


@dataclass(frozen=True, slots=True)
class SandboxClaims:
    """What a valid sandbox token says."""

    organisation_id: OrganisationId
    sandbox_id: SandboxId


class TokenSigner:
    """Signs both kinds of token and verifies those of sandboxes."""

    def __init__(self, private_key: bytes, *, clock: Clock, sandbox_ttl_s: float, fleet_ttl_s: float) -> None:
        key = Ed25519PrivateKey.from_private_bytes(private_key)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._key = OKPKey.import_key(pem, {"use": "sig", "alg": ALGORITHM})
        self._key.ensure_kid()
        self._header = {"alg": ALGORITHM, "typ": "JWT", "kid": self._key.kid}
        self._clock = clock
        self._sandbox_ttl_s = sandbox_ttl_s
        self._fleet_ttl_s = fleet_ttl_s
        self._fleet_tokens: dict[WorkerId, tuple[float, str]] = {}
        self._sandbox_tokens: dict[tuple[OrganisationId, SandboxId], tuple[float, str]] = {}

    @property
    def public_keys(self) -> dict[str, Any]:
        """The JWKS document."""
        return dict(KeySet([self._key]).as_dict(private=False))

    def sandbox_token(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> str:
        """Return a token for one sandbox with nearly all of its life before it."""
        now = self._clock.now().timestamp()
        known = self._sandbox_tokens.get((organisation_id, sandbox_id))
        if known is not None and now < known[0]:
            return known[1]
        token = self.fresh_sandbox_token(organisation_id, sandbox_id)
        if len(self._sandbox_tokens) >= TOKENS_KEPT_MAX:
            self._sandbox_tokens.clear()
        renew_at = now + self._sandbox_ttl_s * SANDBOX_RENEWED_AT
        self._sandbox_tokens[organisation_id, sandbox_id] = (renew_at, token)
        return token

    def fresh_sandbox_token(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> str:
        """Return a token for one sandbox whose life begins now."""
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "sub": organisation_id,
            "org_id": organisation_id,
            "sandbox_id": sandbox_id,
            "iat": now,
            "exp": now + int(self._sandbox_ttl_s),
        }
        return jwt.encode(self._header, claims, self._key, registry=_REGISTRY)

    def fleet_token(self, worker_id: WorkerId) -> str:
        """Return a token for calls to one worker; the same one for half of its life."""
        now = self._clock.monotonic()
        known = self._fleet_tokens.get(worker_id)
        if known is not None and now < known[0]:
            return known[1]
        issued = int(self._clock.now().timestamp())
        claims = {"iss": ISSUER, "aud": worker_id, "iat": issued, "exp": issued + int(self._fleet_ttl_s)}
        token = jwt.encode(self._header, claims, self._key, registry=_REGISTRY)
        if len(self._fleet_tokens) >= TOKENS_KEPT_MAX:
            self._fleet_tokens.clear()
        self._fleet_tokens[worker_id] = (now + self._fleet_ttl_s * FLEET_RENEWED_AT, token)
        return token

    def verify_sandbox_token(self, token: str) -> SandboxClaims:
        """Return what the token says; Unauthorised (`invalid_token`) for anything else than one of ours."""
        try:
            claims: Mapping[str, Any] = jwt.decode(token, self._key, registry=_REGISTRY).claims
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _invalid() from error
        organisation_id, sandbox_id, expires = (claims.get(name) for name in ("org_id", "sandbox_id", "exp"))
        if claims.get("iss") != ISSUER or "aud" in claims:
            raise _invalid()
        if not isinstance(organisation_id, str) or not isinstance(sandbox_id, str):
            raise _invalid()
        if not isinstance(expires, int) or expires <= self._clock.now().timestamp():
            raise Unauthorised("sandbox token has expired", code="invalid_token")
        return SandboxClaims(OrganisationId(organisation_id), SandboxId(sandbox_id))


def _invalid() -> Unauthorised:
    return Unauthorised("invalid sandbox token", code="invalid_token")


async def load_signer(
    secrets: FleetSecretStore, *, clock: Clock, sandbox_ttl_s: float, fleet_ttl_s: float
) -> TokenSigner:
    """Return the signer with the fleet's key; the first replica that starts generates it."""
    candidate = Ed25519PrivateKey.generate().private_bytes_raw()
    private_key = await secrets.get_or_create(SIGNING_KEY_NAME, candidate)
    return TokenSigner(private_key, clock=clock, sandbox_ttl_s=sandbox_ttl_s, fleet_ttl_s=fleet_ttl_s)
