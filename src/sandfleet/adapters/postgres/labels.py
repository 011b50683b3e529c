"""Preview records and the use of tags in PostgreSQL (ports: `ports.labels`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Text, bindparam, column, delete, distinct, exists, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.tables import previews, sandboxes
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.preview import Preview, TagUse

_OF_PORT = (previews.c.sandbox_id == bindparam("sandbox"), previews.c.port == bindparam("at_port"))
_OWN = previews.c.organisation_id == bindparam("organisation")
_GET = select(previews).where(_OWN, *_OF_PORT)
_LIST = (
    select(previews)
    .where(_OWN, previews.c.sandbox_id == bindparam("sandbox"))
    .order_by(previews.c.created_at.desc(), previews.c.port.desc())
)
_HAS = select(exists().where(*_OF_PORT))
_REMOVE = delete(previews).where(_OWN, *_OF_PORT)

_TAGS = (
    func.jsonb_each_text(sandboxes.c.tags)
    .table_valued(column("key", Text), column("value", Text))
    .lateral("tag")
)
_KEYS = (
    select(
        _TAGS.c.key,
        func.count(distinct(sandboxes.c.id)).label("sandbox_count"),
        func.count(distinct(_TAGS.c.value)).label("value_count"),
    )
    .select_from(sandboxes)
    .join(_TAGS, true())
    .where(sandboxes.c.organisation_id == bindparam("organisation"))
    .group_by(_TAGS.c.key)
    .order_by(_TAGS.c.key)
)


class PostgresPreviewStore:
    """Rows of `previews`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, preview: Preview) -> tuple[Preview, bool]:
        """Insert it, or return what is there."""
        values = {
            "id": preview.id,
            "organisation_id": preview.organisation_id,
            "sandbox_id": preview.sandbox_id,
            "port": preview.port,
            "custom_hostname": preview.custom_hostname,
            "auth_config": dict(preview.auth_config),
            "created_at": preview.created_at,
        }
        identity = _identity(preview.organisation_id, preview.sandbox_id, preview.port)
        adding = insert(previews).values(values).on_conflict_do_nothing(index_elements=["sandbox_id", "port"])

        async def work(connection: AsyncConnection) -> Row[Any] | None:
            await connection.execute(adding)
            return (await connection.execute(_GET, identity)).first()

        row = await self._database.transact(work)
        if row is None:
            raise NotFound("the preview was removed while it was made")
        return _preview_from(row), row.id == preview.id

    async def list(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sequence[Preview]:
        """Return the sandbox's records, newest first."""
        parameters = {"organisation": organisation_id, "sandbox": sandbox_id}
        found = await self._database.statement(
            lambda connection: connection.execute(_LIST, parameters), repeatable=True
        )
        return [_preview_from(row) for row in found]

    async def has(self, sandbox_id: SandboxId, port: int) -> bool:
        """Whether the port has a record."""
        parameters = {"sandbox": sandbox_id, "at_port": port}
        found = await self._database.statement(
            lambda connection: connection.execute(_HAS, parameters), repeatable=True
        )
        return bool(found.scalar_one())

    async def remove(self, organisation_id: OrganisationId, sandbox_id: SandboxId, port: int) -> None:
        """Delete the port's record."""
        identity = _identity(organisation_id, sandbox_id, port)
        removed = await self._database.statement(lambda connection: connection.execute(_REMOVE, identity))
        if removed.rowcount == 0:
            raise NotFound(f"port {port} has no preview")


class PostgresTagStore:
    """Counts over `sandboxes.tags`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keys(self, organisation_id: OrganisationId) -> Sequence[TagUse]:
        """Return every key with its counts, by name."""
        found = await self._database.statement(
            lambda connection: connection.execute(_KEYS, {"organisation": organisation_id}), repeatable=True
        )
        return [TagUse(row.key, row.sandbox_count, row.value_count) for row in found]


def _identity(organisation_id: OrganisationId, sandbox_id: SandboxId, port: int) -> dict[str, Any]:
    return {"organisation": organisation_id, "sandbox": sandbox_id, "at_port": port}


def _preview_from(row: Row[Any]) -> Preview:
    return Preview(
        id=row.id,
        organisation_id=OrganisationId(row.organisation_id),
        sandbox_id=SandboxId(row.sandbox_id),
        port=row.port,
        created_at=row.created_at,
        custom_hostname=row.custom_hostname,
        auth_config=row.auth_config,
    )
