"""Idempotency keys in memory (port: `ports.stores.IdempotencyStore`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sandfleet.model.ids import OrganisationId
from sandfleet.ports.stores import IdempotencyRecord, StoredAnswer
from sandfleet.testing.memory.database import Claim, MemoryDatabase, as_json
from sandfleet.testing.memory.link import Link

Scope = tuple[OrganisationId, str, str, str]
KEPT = timedelta(hours=24)


class MemoryIdempotencyStore:
    """Keys with the body they came with and the answer they got."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def claim(
        self,
        scope: Scope,
        *,
        body_digest: bytes,
        holder: str,
        lease_s: float,
        resource: Mapping[str, Any],
    ) -> IdempotencyRecord:
        """Insert the claim, take over a left one, or read what stands there."""

        def work() -> IdempotencyRecord:
            now = self._database.now()
            known = self._database.claims.get(scope)
            is_old = known is not None and known.created_at < now - KEPT
            if known is not None and not is_old and not _is_left(known, body_digest, now=now):
                return IdempotencyRecord(known.body_digest, known.answer, known.resource, is_mine=False)
            fixed = as_json(resource) if known is None or is_old else known.resource
            until = now + timedelta(seconds=lease_s)
            self._database.claims[scope] = Claim(body_digest, fixed, holder, until, created_at=now)
            return IdempotencyRecord(body_digest, None, fixed, is_mine=True)

        return await self._link.call(work, name="claim")

    async def finish(self, scope: Scope, *, holder: str, answer: StoredAnswer) -> None:
        """Keep the answer."""

        def work() -> None:
            known = self._database.claims.get(scope)
            if known is not None and known.holder == holder and known.answer is None:
                known.answer = answer

        await self._link.call(work, repeatable=True, name="answer")

    async def prolong(self, scope: Scope, *, holder: str, lease_s: float) -> None:
        """Let the claim count from now."""

        def work() -> None:
            known = self._database.claims.get(scope)
            if known is not None and known.holder == holder and known.answer is None:
                known.lease_until = self._database.now() + timedelta(seconds=lease_s)

        await self._link.call(work, repeatable=True, name="prolong")

    async def join(self, scope: Scope, *, holder: str, resource: Mapping[str, Any]) -> None:
        """Replace what the claim has fixed."""

        def work() -> None:
            known = self._database.claims.get(scope)
            if known is not None and known.holder == holder and known.answer is None:
                known.resource = as_json(resource)

        await self._link.call(work, repeatable=True, name="join")

    async def abandon(self, scope: Scope, *, holder: str) -> None:
        """Forget the claim."""

        def work() -> None:
            known = self._database.claims.get(scope)
            if known is not None and known.holder == holder and known.answer is None:
                del self._database.claims[scope]

        await self._link.call(work, repeatable=True, name="abandon")

    async def remove_old(self) -> int:
        """Delete what is older than 24 h."""

        def work() -> int:
            until = self._database.now() - KEPT
            old = [key for key, one in self._database.claims.items() if one.created_at < until]
            for key in old:
                del self._database.claims[key]
            return len(old)

        return await self._link.call(work, repeatable=True, name="remove_old_keys")


def _is_left(known: Claim, body_digest: bytes, *, now: Any) -> bool:
    """Whether its holder has vanished without an answer, and this is the same request."""
    return known.answer is None and known.lease_until < now and known.body_digest == body_digest
