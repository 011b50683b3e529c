"""Encryption of secrets at rest: AES-256-GCM under a key derived from the master secret."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"sandfleet/secrets/v1"
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class SealBroken(Exception):
    """The sealed bytes were changed, moved to another row, or sealed under another master secret."""


class Sealer:
    """Seals and opens bytes. `context` names the row, so sealed bytes cannot be moved to another."""

    def __init__(self, master_secret: str) -> None:
        derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=LABEL)
        self._cipher = AESGCM(derivation.derive(bytes.fromhex(master_secret)))

    def seal(self, plain: bytes, *, context: str) -> bytes:
        """Return format, nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """Return the plain bytes; SealBroken."""
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _FORMAT:
            raise SealBroken(f"unknown format of the sealed bytes of {context}")
        try:
            return self._cipher.decrypt(nonce, body, context.encode())
        except InvalidTag:
            raise SealBroken(f"the sealed bytes of {context} do not open") from None
