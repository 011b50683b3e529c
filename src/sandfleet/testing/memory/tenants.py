"""Tenants, keys, secrets, terms, previews and tags in memory (ports: `ports.stores`, `ports.labels`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.fleet_news import elected
from sandfleet.model.ids import KeyId, OrganisationId, SandboxId
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas
from sandfleet.model.preview import Preview, TagUse
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link


class MemoryOrganisationStore:
    """Tenants, quotas, keys."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def create(self, organisation: Organisation) -> None:
        """Insert it."""

        def work() -> None:
            self._require_free(organisation.name, organisation.id)
            if organisation.id in self._database.organisations:
                raise Conflict(f"the name {organisation.name!r} is taken", code="name_taken")
            self._database.organisations[organisation.id] = organisation

        await self._link.call(work, name="create_organisation")

    async def get(self, organisation_id: OrganisationId) -> Organisation:
        """Return it."""
        return await self._link.call(
            lambda: self._database.organisation(organisation_id), repeatable=True, name="organisation"
        )

    async def list(self) -> Sequence[Organisation]:
        """Return all, newest first."""

        def work() -> Sequence[Organisation]:
            found = sorted(self._database.organisations.values(), key=lambda one: one.id)
            return sorted(found, key=lambda one: one.created_at, reverse=True)

        return await self._link.call(work, repeatable=True, name="organisations")

    async def change(
        self, organisation_id: OrganisationId, *, name: str | None, quotas: Quotas | None, caps: Caps | None
    ) -> Organisation:
        """Change what is given."""

        def work() -> Organisation:
            before = self._database.organisation(organisation_id)
            if name is not None:
                self._require_free(name, organisation_id)
            after = replace(
                before,
                name=before.name if name is None else name,
                quotas=before.quotas if quotas is None else quotas,
                caps=before.caps if caps is None else caps,
            )
            self._database.organisations[organisation_id] = after
            return after

        return await self._link.call(work, repeatable=True, name="change_organisation")

    async def usage(self, organisation_id: OrganisationId) -> Quotas:
        """Return what counts now."""
        return await self._link.call(
            lambda: self._database.usage(organisation_id), repeatable=True, name="usage"
        )

    async def add_key(self, key: ApiKey, *, digest: bytes) -> None:
        """Insert it by its digest."""
        await self._link.call(lambda: self._database.keys.update({key.id: (key, digest)}), name="add_key")

    async def find_keys(self, prefix: str) -> Sequence[tuple[ApiKey, bytes]]:
        """Return candidates and their digests."""

        def work() -> Sequence[tuple[ApiKey, bytes]]:
            kept = self._database.keys.values()
            return [(key, digest) for key, digest in kept if key.prefix == prefix and key.revoked_at is None]

        return await self._link.call(work, repeatable=True, name="find_keys")

    async def list_keys(self, organisation_id: OrganisationId) -> Sequence[ApiKey]:
        """Return the organisation's keys."""

        def work() -> Sequence[ApiKey]:
            kept = [key for key, _ in self._database.keys.values() if key.revoked_at is None]
            theirs = sorted(
                (key for key in kept if key.organisation_id == organisation_id), key=lambda key: key.id
            )
            return sorted(theirs, key=lambda key: key.created_at, reverse=True)

        return await self._link.call(work, repeatable=True, name="list_keys")

    async def revoke_key(self, organisation_id: OrganisationId, key_id: KeyId) -> None:
        """Revoke it."""

        def work() -> None:
            known = self._database.keys.get(key_id)
            if known is None or known[0].organisation_id != organisation_id or known[0].revoked_at:
                raise NotFound(f"key {key_id} not found")
            self._database.keys[key_id] = (replace(known[0], revoked_at=self._database.now()), known[1])

        await self._link.call(work, name="revoke_key")

    def _require_free(self, name: str, organisation_id: OrganisationId) -> None:
        others = self._database.organisations.values()
        if any(one.name == name and one.id != organisation_id for one in others):
            raise Conflict(f"the name {name!r} is taken", code="name_taken")


class MemoryFleetSecretStore:
    """One secret per name; the first candidate wins on every replica."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def get_or_create(self, name: str, candidate: bytes) -> bytes:
        """Return the secret."""
        return await self._link.call(
            lambda: self._database.secrets.setdefault(name, candidate), repeatable=True, name="secret"
        )


class MemoryTermStore:
    """The number of elections."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def raise_term(self, holder: str) -> int:
        """Begin a new term."""

        def work() -> int:
            self._database.term += 1
            self._database.term_holder = holder
            self._database.tell(elected(self._database.term), actor=holder)
            return self._database.term

        return await self._link.call(work, repeatable=True, name="raise_term")

    async def current_term(self) -> int:
        """Return the newest term."""
        return await self._link.call(lambda: self._database.term, repeatable=True, name="current_term")


class MemoryPreviewStore:
    """Preview records."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def add(self, preview: Preview) -> tuple[Preview, bool]:
        """Insert it, or return what is there."""

        def work() -> tuple[Preview, bool]:
            kept = self._database.previews.setdefault((preview.sandbox_id, preview.port), preview)
            if kept.organisation_id != preview.organisation_id:
                raise NotFound("the preview was removed while it was made")
            return kept, kept.id == preview.id

        return await self._link.call(work, name="add_preview")

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Preview]:
        """Return the sandbox's records, newest first."""

        def work() -> Sequence[Preview]:
            found = [
                one
                for one in self._database.previews.values()
                if one.organisation_id == organisation_id and one.sandbox_id == sandbox_id
            ]
            return sorted(found, key=lambda one: (one.created_at, one.port), reverse=True)

        return await self._link.call(work, repeatable=True, name="list_previews")

    async def has(self, sandbox_id: SandboxId, port: int) -> bool:
        """Whether the port has a record."""
        return await self._link.call(
            lambda: (sandbox_id, port) in self._database.previews, repeatable=True, name="has_preview"
        )

    async def remove(self, organisation_id: OrganisationId, sandbox_id: SandboxId, port: int) -> None:
        """Delete the port's record."""

        def work() -> None:
            known = self._database.previews.get((sandbox_id, port))
            if known is None or known.organisation_id != organisation_id:
                raise NotFound(f"port {port} has no preview")
            del self._database.previews[sandbox_id, port]

        await self._link.call(work, name="remove_preview")


class MemoryTagStore:
    """Counts over the tags of sandboxes."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def keys(self, organisation_id: OrganisationId) -> Sequence[TagUse]:
        """Return every key with its counts, by name."""

        def work() -> Sequence[TagUse]:
            values: dict[str, list[str]] = {}
            for row in self._database.sandboxes.values():
                if row.organisation_id == organisation_id:
                    for key, value in row.tags.items():
                        values.setdefault(key, []).append(value)
            return [TagUse(key, len(values[key]), len(set(values[key]))) for key in sorted(values)]

        return await self._link.call(work, repeatable=True, name="tags")
