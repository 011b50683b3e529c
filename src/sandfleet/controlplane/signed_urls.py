"""Signed URLs: one file of one sandbox, one direction, until one moment, without any other credential."""

from __future__ import annotations

import hmac
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"sandfleet/signed-url/v1"
DOWNLOAD = "download"
UPLOAD = "upload"


class UrlSigner:
    """Signs with a key of its own, derived from the master secret, so every replica has the same."""

    def __init__(self, master_secret: str) -> None:
        derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=LABEL)
        self._key = derivation.derive(bytes.fromhex(master_secret))

    def signature(self, sandbox_id: str, path: bytes, *, direction: str, expires: int) -> str:
        """Return the signature over all that the URL allows."""
        signed = b"\n".join([sandbox_id.encode(), path, direction.encode(), str(expires).encode()])
        return hmac.new(self._key, signed, sha256).hexdigest()

    def is_valid(self, signature: str, *, sandbox_id: str, path: bytes, direction: str, expires: int) -> bool:
        """Whether it is ours; takes the same time whatever was sent."""
        right = self.signature(sandbox_id, path, direction=direction, expires=expires)
        return hmac.compare_digest(right.encode(), signature.encode("utf-8", "surrogateescape"))
