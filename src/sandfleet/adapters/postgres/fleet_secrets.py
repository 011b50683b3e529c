"""Key material of the fleet in PostgreSQL, sealed (port: `ports.stores.FleetSecretStore`)."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import fleet_secrets

_INSERT = (
    insert(fleet_secrets)
    .values(
        name=bindparam("name"),
        sealed=bindparam("sealed", type_=fleet_secrets.c.sealed.type),
        created_at=func.now(),
    )
    .on_conflict_do_nothing()
)
_GET = select(fleet_secrets.c.sealed).where(fleet_secrets.c.name == bindparam("name"))


class PostgresFleetSecretStore:
    """One secret per name; the first candidate wins on every replica."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def get_or_create(self, name: str, candidate: bytes) -> bytes:
        """Return the secret."""
        context = f"secret {name}"
        parameters = {"name": name, "sealed": self._sealer.seal(candidate, context=context)}

        async def work(connection: AsyncConnection) -> bytes:
            await connection.execute(_INSERT, parameters)
            return bytes((await connection.execute(_GET, {"name": name})).scalar_one())

        return self._sealer.open(await self._database.statement(work, repeatable=True), context=context)
