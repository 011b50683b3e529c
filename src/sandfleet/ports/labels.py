"""Stores of what hangs on a sandbox: preview records, tags in use (adapter: `adapters/postgres`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.preview import Preview, TagUse


class PreviewStore(Protocol):
    """Preview records; all belong to an organisation."""

    async def add(self, preview: Preview) -> tuple[Preview, bool]:
        """Insert it, or return the record that the port already has; True says that it is new."""
        ...

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Preview]:
        """Return the sandbox's records, newest first."""
        ...

    async def has(self, sandbox_id: SandboxId, port: int) -> bool:
        """Whether the port has a record, whoever's sandbox it is: asked for requests without credential."""
        ...

    async def remove(self, organisation_id: OrganisationId, sandbox_id: SandboxId, port: int) -> None:
        """Delete the port's record; NotFound."""
        ...


class TagStore(Protocol):
    """What tags an organisation uses."""

    async def keys(self, organisation_id: OrganisationId) -> Sequence[TagUse]:
        """Return every key on a sandbox that is still known, by name."""
        ...
