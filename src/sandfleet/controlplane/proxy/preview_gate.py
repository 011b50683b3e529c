"""Which requests are for a guest port, and who may pass.

Facts: the first label of the host decides, whatever the rest is. The gate is the
sandbox row's digest, read for each request, so that an old token dies at once.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.datastructures import Headers
from starlette.types import Scope

from sandfleet.controlplane.http.observing import header_of
from sandfleet.model.ids import SandboxId

TOKEN_HEADER = "x-oc-preview-token"  # noqa: S105 -- the name of a header
TOKEN_LENGTH_MIN = 16
TOKEN_LENGTH_MAX = 1024
PORT_MAX = 65535
_LABEL_OF_PORT = re.compile(rb"(sb-[a-z0-9]{26})-p([0-9]{1,5})", re.IGNORECASE)
_DERIVATION_LABEL = b"sandfleet/preview-token/v1"


@dataclass(frozen=True, slots=True)
class PreviewHost:
    """What a preview's host name says."""

    sandbox_id: SandboxId
    port: int


def preview_host(scope: Scope) -> PreviewHost | None:
    """Return which guest port the host name means, None for every other host."""
    host = header_of(scope, b"host") or b""
    if host[:3].lower() != b"sb-":
        return None
    match = _LABEL_OF_PORT.fullmatch(host.split(b":")[0].split(b".")[0])
    if match is None or not 1 <= int(match[2]) <= PORT_MAX:
        return None
    return PreviewHost(SandboxId(match[1].decode().lower()), int(match[2]))


def digest_of(token: str) -> bytes:
    """Return what is stored of a token."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_token() -> str:
    """Return a token of 256 random bits."""
    return secrets.token_urlsafe(32)


def first_token(master_secret: str, sandbox_id: str) -> str:
    """Return the token of a sandbox that is created with a gate: a repeated create says the same one."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=sandbox_id.encode(), info=_DERIVATION_LABEL)
    return derivation.derive(bytes.fromhex(master_secret)).hex()


def sent_tokens(headers: Headers) -> tuple[str | None, str | None]:
    """Return the token of the header of its own, and the bearer token."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return headers.get(TOKEN_HEADER), value.strip() if scheme.lower() == "bearer" and value else None


def is_open_to(digest: bytes | None, headers: Headers) -> bool:
    """Whether a request with these headers may pass."""
    if digest is None:
        return True
    return any(token and hmac.compare_digest(digest_of(token), digest) for token in sent_tokens(headers))


def without_tokens(headers: list[tuple[str, str]], *, digest: bytes | None) -> list[tuple[str, str]]:
    """Return the headers without what opened the gate; an application's own bearer token stays."""
    kept = [(name, value) for name, value in headers if name.lower() != TOKEN_HEADER]
    if digest is None:
        return kept
    return [
        (name, value)
        for name, value in kept
        if name.lower() != "authorization"
        or not hmac.compare_digest(digest_of(value.partition(" ")[2].strip()), digest)
    ]
