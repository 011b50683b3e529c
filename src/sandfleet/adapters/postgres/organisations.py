"""Organisations and their keys in PostgreSQL (port: `ports.stores.OrganisationStore`)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import admission, rows
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.tables import api_keys, organisations
from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.ids import KeyId, OrganisationId
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas

_GET = select(organisations).where(organisations.c.id == bindparam("id"))
_LIST = select(organisations).order_by(organisations.c.created_at.desc(), organisations.c.id)
_FIND = select(api_keys).where(api_keys.c.prefix == bindparam("prefix"), api_keys.c.revoked_at.is_(None))
_KEYS = (
    select(api_keys)
    .where(api_keys.c.organisation_id == bindparam("organisation"), api_keys.c.revoked_at.is_(None))
    .order_by(api_keys.c.created_at.desc(), api_keys.c.id)
)
_REVOKE = (
    update(api_keys)
    .where(
        api_keys.c.organisation_id == bindparam("organisation"),
        api_keys.c.id == bindparam("key"),
        api_keys.c.revoked_at.is_(None),
    )
    .values(revoked_at=func.now())
)


class PostgresOrganisationStore:
    """Tenants, quotas, keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, organisation: Organisation) -> None:
        """Insert it."""
        values = rows.organisation_values(organisation)
        try:
            await self._database.statement(
                lambda connection: connection.execute(organisations.insert(), values)
            )
        except IntegrityError as error:
            raise Conflict(f"the name {organisation.name!r} is taken", code="name_taken") from error

    async def get(self, organisation_id: OrganisationId) -> Organisation:
        """Return it."""
        found = await self._database.statement(
            lambda connection: connection.execute(_GET, {"id": organisation_id}), repeatable=True
        )
        row = found.first()
        if row is None:
            raise NotFound(f"organisation {organisation_id} not found")
        return rows.organisation_from(row)

    async def list(self) -> Sequence[Organisation]:
        """Return all, newest first."""
        found = await self._database.statement(lambda connection: connection.execute(_LIST), repeatable=True)
        return [rows.organisation_from(row) for row in found]

    async def change(
        self, organisation_id: OrganisationId, *, name: str | None, quotas: Quotas | None, caps: Caps | None
    ) -> Organisation:
        """Change what is given."""
        values = {
            **({"name": name} if name is not None else {}),
            **(rows.quota_values(quotas) if quotas is not None else {}),
            **(rows.cap_values(caps) if caps is not None else {}),
        }
        if not values:
            return await self.get(organisation_id)
        statement = (
            update(organisations)
            .where(organisations.c.id == organisation_id)
            .values(values)
            .returning(organisations)
        )
        try:
            found = await self._database.statement(
                lambda connection: connection.execute(statement), repeatable=True
            )
        except IntegrityError as error:
            raise Conflict(f"the name {name!r} is taken", code="name_taken") from error
        row = found.first()
        if row is None:
            raise NotFound(f"organisation {organisation_id} not found")
        return rows.organisation_from(row)

    async def usage(self, organisation_id: OrganisationId) -> Quotas:
        """Return what counts now."""

        async def work(connection: AsyncConnection) -> Quotas:
            return await admission.usage(connection, organisation_id)

        return await self._database.statement(work, repeatable=True)

    async def add_key(self, key: ApiKey, *, digest: bytes) -> None:
        """Insert it by its digest."""
        values = {**rows.key_values(key), "digest": digest}
        await self._database.statement(lambda connection: connection.execute(api_keys.insert(), values))

    async def find_keys(self, prefix: str) -> Sequence[tuple[ApiKey, bytes]]:
        """Return candidates and their digests."""
        found = await self._database.statement(
            lambda connection: connection.execute(_FIND, {"prefix": prefix}), repeatable=True
        )
        return [(rows.key_from(row), row.digest) for row in found]

    async def list_keys(self, organisation_id: OrganisationId) -> Sequence[ApiKey]:
        """Return the organisation's keys."""
        found = await self._database.statement(
            lambda connection: connection.execute(_KEYS, {"organisation": organisation_id}), repeatable=True
        )
        return [rows.key_from(row) for row in found]

    async def revoke_key(self, organisation_id: OrganisationId, key_id: KeyId) -> None:
        """Revoke it."""
        parameters = {"organisation": organisation_id, "key": key_id}
        result = await self._database.statement(lambda connection: connection.execute(_REVOKE, parameters))
        if result.rowcount == 0:
            raise NotFound(f"key {key_id} not found")
