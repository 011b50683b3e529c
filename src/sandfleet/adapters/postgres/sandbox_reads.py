"""What clients read of sandboxes: single rows, with one statement for all who ask at once, and pages.

Every statement is made once: to put one together costs more than PostgreSQL takes to answer it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Text, any_, bindparam, func, select, tuple_

from sandfleet.adapters.postgres import rows
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.reading import Columns, Query
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.shared_reads import SharedReads
from sandfleet.adapters.postgres.tables import sandboxes
from sandfleet.model.ids import OrganisationId, SandboxId
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.stores import SandboxFilter

KEPT_MAX = 2000
Key = tuple[OrganisationId, SandboxId]

_ASKED = (
    func.unnest(bindparam("organisations", type_=ARRAY(Text)), bindparam("ids", type_=ARRAY(Text)))
    .table_valued("organisation_id", "id")
    .render_derived()
)
_GET = Query(
    select(sandboxes).join(
        _ASKED,
        (sandboxes.c.id == _ASKED.c.id) & (sandboxes.c.organisation_id == _ASKED.c.organisation_id),
    )
)


def list_query(organisation_id: OrganisationId, where: SandboxFilter) -> tuple[Query, Mapping[str, Any]]:
    """Return the statement of a page, newest first, and its parameters."""
    parameters: dict[str, Any] = {"organisation": organisation_id, "limit": where.limit}
    if where.states is not None:
        parameters["states"] = sorted(state.value for state in where.states)
    if where.alias is not None:
        parameters["alias"] = where.alias
    if where.cursor is not None:
        parameters["before"], parameters["before_id"] = where.cursor
    return _list_statement(frozenset(parameters)), parameters


@cache
def _list_statement(asked: frozenset[str]) -> Query:
    columns = sandboxes.c
    query = select(sandboxes).where(columns.organisation_id == bindparam("organisation"))
    if "states" in asked:
        query = query.where(columns.state == any_(bindparam("states", type_=ARRAY(Text))))
    if "alias" in asked:
        query = query.where(columns.alias == bindparam("alias"))
    if "before" in asked:
        cursor = tuple_(
            bindparam("before", type_=columns.created_at.type), bindparam("before_id", type_=Text)
        )
        query = query.where(tuple_(columns.created_at, columns.id) < cursor)
    return Query(query.order_by(columns.created_at.desc(), columns.id.desc()).limit(bindparam("limit")))


class SandboxRows:
    """Makes sandboxes of rows; a row that is equal in every column to the last one is the same sandbox.

    One with sealed values is made anew each time: what is opened does not stay.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._kept: dict[str, tuple[Columns, Sandbox]] = {}

    def sandbox(self, row: Columns) -> Sandbox:
        """Return the sandbox of a row."""
        known = self._kept.get(row["id"])
        if known is not None and known[0] == row:
            return known[1]
        made = rows.sandbox_from(row, self._sealer)
        if row["envs_sealed"] is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[made.id] = (row, made)
        return made


class SandboxReads:
    """Finds rows by organisation and id; whoever asks for another's gets nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shared = SharedReads(self._read)

    async def find(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Columns | None:
        """Return the row as it stands, or None."""
        return await self._shared.get((organisation_id, sandbox_id))

    async def _read(self, keys: Collection[Key]) -> Mapping[Key, Columns]:
        asked = {"organisations": [key[0] for key in keys], "ids": [key[1] for key in keys]}
        found = await self._database.read(_GET, asked)
        return {(row["organisation_id"], row["id"]): row for row in found}
