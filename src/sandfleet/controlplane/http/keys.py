"""API keys: minted once, found by their first characters, compared in constant time, cached for seconds."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from sandfleet.model.errors import Forbidden
from sandfleet.model.organisation import ApiKey
from sandfleet.ports.clock import Clock
from sandfleet.ports.stores import OrganisationStore

PREFIX_LENGTH = 12
CACHE_ENTRIES_MAX = 10_000
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def mint_key() -> str:
    """Return a new key: `osb_` and 40 characters."""
    return "osb_" + "".join(secrets.choice(_ALPHABET) for _ in range(40))


def key_digest(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


def key_prefix(key: str) -> str:
    """Return the characters by which a key is found."""
    return key[:PREFIX_LENGTH]


class KeyRing:
    """Looks keys up; a revoked key works for at most `cache_s` longer on this replica."""

    def __init__(self, store: OrganisationStore, *, clock: Clock, cache_s: float) -> None:
        self._store = store
        self._clock = clock
        self._cache_s = cache_s
        self._known: dict[str, tuple[float, Sequence[tuple[ApiKey, bytes]]]] = {}

    async def find(self, key: str) -> ApiKey:
        """Return the stored key, or Forbidden (`invalid_api_key`)."""
        digest = key_digest(key)
        found = None
        for candidate, stored in await self._candidates(key_prefix(key)):
            if hmac.compare_digest(stored, digest):
                found = candidate
        if found is None:
            raise Forbidden("invalid API key", code="invalid_api_key")
        return found

    def forget(self) -> None:
        """Drop what is cached, after a change of keys on this replica."""
        self._known.clear()

    async def _candidates(self, prefix: str) -> Sequence[tuple[ApiKey, bytes]]:
        if not prefix.isascii() or not prefix.isprintable():
            return ()
        now = self._clock.monotonic()
        known = self._known.get(prefix)
        if known is not None and now < known[0]:
            return known[1]
        candidates = await self._store.find_keys(prefix)
        if len(self._known) >= CACHE_ENTRIES_MAX:
            self._known.clear()
        self._known[prefix] = (now + self._cache_s, candidates)
        return candidates
