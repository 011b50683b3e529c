"""Idempotency keys in PostgreSQL (port: `ports.stores.IdempotencyStore`)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Double, Row, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.statements import in_seconds
from sandfleet.adapters.postgres.tables import idempotency_keys as keys
from sandfleet.model.ids import OrganisationId
from sandfleet.ports.stores import IdempotencyRecord, StoredAnswer

Scope = tuple[OrganisationId, str, str, str]

_KEPT = text("interval '24 hours'")
_LEASE_END = in_seconds(bindparam("lease_s", type_=Double()))
_SAME = (
    (keys.c.organisation_id == bindparam("b_organisation"))
    & (keys.c.method == bindparam("b_method"))
    & (keys.c.path == bindparam("b_path"))
    & (keys.c.key == bindparam("b_key"))
)


def _claim_statement() -> Any:
    columns = ("organisation_id", "method", "path", "key", "body_digest", "resource", "holder")
    new = insert(keys).values(
        {name: bindparam(name, type_=keys.c[name].type) for name in columns}
        | {"created_at": func.now(), "lease_deadline_at": _LEASE_END}
    )
    is_old = keys.c.created_at < func.now() - _KEPT
    is_left = (
        keys.c.answer_sealed.is_(None)
        & (keys.c.lease_deadline_at < func.now())
        & (keys.c.body_digest == new.excluded.body_digest)
    )
    # A key past its 24 h begins anew; a claim that was left keeps what its first attempt fixed.
    first = {
        "resource": func.coalesce(
            select(keys.c.resource).where(_SAME, ~is_old).correlate(None).scalar_subquery(),
            new.excluded.resource,
        )
    }
    return new.on_conflict_do_update(
        index_elements=[keys.c.organisation_id, keys.c.method, keys.c.path, keys.c.key],
        set_=first
        | {
            "holder": new.excluded.holder,
            "lease_deadline_at": new.excluded.lease_deadline_at,
            "created_at": func.now(),
            "body_digest": new.excluded.body_digest,
            "answer_sealed": None,
        },
        where=is_old | is_left,
    ).returning(keys)


_CLAIM = _claim_statement()
_READ = select(keys).where(_SAME)
_MINE = _SAME & (keys.c.holder == bindparam("b_holder")) & keys.c.answer_sealed.is_(None)
_FINISH = (
    update(keys).where(_MINE).values(answer_sealed=bindparam("b_answer", type_=keys.c.answer_sealed.type))
)
_PROLONG = update(keys).where(_MINE).values(lease_deadline_at=_LEASE_END)
_JOIN = update(keys).where(_MINE).values(resource=bindparam("b_resource", type_=keys.c.resource.type))
_ABANDON = delete(keys).where(_MINE)
_REMOVE_OLD = delete(keys).where(keys.c.created_at < func.now() - _KEPT)


class PostgresIdempotencyStore:
    """Keys with the body they came with and the sealed answer they got."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

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
        parameters = {
            "organisation_id": scope[0],
            "method": scope[1],
            "path": scope[2],
            "key": scope[3],
            "body_digest": body_digest,
            "resource": dict(resource),
            "holder": holder,
            "lease_s": lease_s,
            **_identity(scope),
        }

        async def work(connection: AsyncConnection) -> tuple[Row[Any] | None, bool]:
            mine = (await connection.execute(_CLAIM, parameters)).first()
            if mine is not None:
                return mine, True
            return (await connection.execute(_READ, _identity(scope))).first(), False

        # Between the two statements the first attempt may abandon its claim: then it is free.
        for _ in range(2):
            row, is_mine = await self._database.statement(work)
            if row is not None:
                return self._record(scope, row, is_mine=is_mine)
        return IdempotencyRecord(body_digest=body_digest, answer=None, resource=dict(resource), is_mine=False)

    async def finish(self, scope: Scope, *, holder: str, answer: StoredAnswer) -> None:
        """Keep the answer, sealed."""
        plain = msgspec.json.encode(
            {
                "status": answer.status,
                "headers": dict(answer.headers),
                "body": base64.b64encode(answer.body).decode(),
            }
        )
        sealed = self._sealer.seal(plain, context=_context(scope))
        parameters = {**_identity(scope), "b_holder": holder, "b_answer": sealed}
        await self._database.statement(
            lambda connection: connection.execute(_FINISH, parameters), repeatable=True
        )

    async def prolong(self, scope: Scope, *, holder: str, lease_s: float) -> None:
        """Let the claim count from now."""
        parameters = {**_identity(scope), "b_holder": holder, "lease_s": lease_s}
        await self._database.statement(
            lambda connection: connection.execute(_PROLONG, parameters), repeatable=True
        )

    async def join(self, scope: Scope, *, holder: str, resource: Mapping[str, Any]) -> None:
        """Replace what the claim has fixed."""
        parameters = {**_identity(scope), "b_holder": holder, "b_resource": dict(resource)}
        await self._database.statement(
            lambda connection: connection.execute(_JOIN, parameters), repeatable=True
        )

    async def abandon(self, scope: Scope, *, holder: str) -> None:
        """Forget the claim."""
        parameters = {**_identity(scope), "b_holder": holder}
        await self._database.statement(
            lambda connection: connection.execute(_ABANDON, parameters), repeatable=True
        )

    async def remove_old(self) -> int:
        """Delete what is older than 24 h."""
        result = await self._database.statement(
            lambda connection: connection.execute(_REMOVE_OLD), repeatable=True
        )
        return result.rowcount

    def _record(self, scope: Scope, row: Row[Any], *, is_mine: bool) -> IdempotencyRecord:
        answer = None
        if row.answer_sealed is not None:
            stored = msgspec.json.decode(self._sealer.open(row.answer_sealed, context=_context(scope)))
            answer = StoredAnswer(stored["status"], stored["headers"], base64.b64decode(stored["body"]))
        return IdempotencyRecord(
            body_digest=row.body_digest, answer=answer, resource=row.resource, is_mine=is_mine
        )


def _identity(scope: Scope) -> dict[str, str]:
    return {"b_organisation": scope[0], "b_method": scope[1], "b_path": scope[2], "b_key": scope[3]}


def _context(scope: Scope) -> str:
    return "answer of " + " ".join(scope)
