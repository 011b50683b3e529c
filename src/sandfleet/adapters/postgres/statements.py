"""Statements that check and write several rows at once, so that a change is one round trip.

# Facts
A statement with data-modifying CTEs is atomic, and all its parts see the snapshot of
its beginning. A CTE with a row lock waits for concurrent writers and looks at the
newest row again, so a check inside a locking CTE cannot be passed by two writers.

# Design
`guard` is a chain of locking CTEs, always in the order term, sandbox, operation: two
statements never wait for each other. Every write hangs on the last of the chain; when
one check fails the statement writes nothing and says so with a count of zero.
Parameters carry a prefix per row: `s_` sandbox, `o_` operation, `f_` operation that
is inserted, `t_` transition, `r_` reservation, `n_` snapshot, `c_` checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Double,
    Insert,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    literal_column,
    select,
    true,
    update,
)

from sandfleet.adapters.postgres import rows
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.tables import operations, reservations, sandboxes, terms, transitions
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition

LEADER = "leader"
DEFAULT_LEASE_S = 15.0
_SANDBOX_CHANGES = (
    "state",
    "version",
    "epoch",
    "worker_id",
    "memory_mib",
    "cpu_count",
    "disk_mib",
    "changed_at",
    "timeout_s",
    "metadata",
    "alias",
    "template_version",
    "active_at",
    "started_at",
    "stopped_at",
    "deadline_at",
    "stop_reason",
    "error_message",
    "snapshot_id",
    "cpu_percent",
    "tags",
    "tags_changed_at",
    "preview_digest",
    "scaling_locked",
    "autoscale_enabled",
    "autoscale_min_mib",
    "autoscale_max_mib",
)
_OPERATION_CHANGES = ["state", "step", "progress", "error_code", "error_message", "finished_at"]
_TRANSITION_COLUMNS = [column.name for column in transitions.columns if column.name != "id"]

Parameters = dict[str, Any]


def prefixed(prefix: str, values: Mapping[str, Any]) -> Parameters:
    """Return the values as parameters of one row."""
    return {prefix + name: value for name, value in values.items()}


def bind(table: Table, prefix: str, name: str) -> BindParameter[Any]:
    """Return the parameter of one column, with the column's type."""
    return bindparam(prefix + name, type_=table.c[name].type)


def in_seconds(amount: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the database's time in that many seconds."""
    nought: list[ColumnElement[Any]] = [literal_column("0")] * 6
    return func.now() + func.make_interval(*nought, amount)


def is_overdue() -> ColumnElement[bool]:
    """Return the column that says whether an operation's deadline has passed."""
    return (operations.c.deadline_at < func.now()).label("is_overdue")


def select_operation() -> Select[Any]:
    """Return the query of operations with all that `rows.operation_from` needs."""
    return select(operations, is_overdue())


def guard(
    *, term: bool = False, sandbox: bool = False, operation: bool = False, logged_only: bool = False
) -> CTE:
    """Return the last of the chain of checks; it has one row when all of them pass.

    With `logged_only` a sandbox gets a log row and stays as it is: its lock keeps the numbers of its log
    in the order in which they become visible.
    """
    held: CTE | None = None
    if term:
        held = (
            select(literal(1).label("one"))
            .select_from(terms)
            .where(terms.c.name == LEADER, terms.c.number == bindparam("term"))
            .with_for_update(read=True)
            .cte("held_term")
        )
    if sandbox:
        held = (
            select(sandboxes.c.id)
            .where(
                sandboxes.c.id == bind(sandboxes, "s_", "id"),
                sandboxes.c.version == bind(sandboxes, "s_", "version") - 1,
                exists(select(held)) if held is not None else true(),
            )
            .with_for_update(key_share=True)
            .cte("held_sandbox")
        )
    if logged_only:
        held = (
            select(sandboxes.c.id)
            .where(sandboxes.c.id == bind(transitions, "t_", "sandbox_id"))
            .with_for_update(key_share=True)
            .cte("held_log")
        )
    if operation:
        held = (
            select(operations.c.id)
            .where(
                operations.c.id == bind(operations, "o_", "id"),
                operations.c.lease_token == bind(operations, "o_", "lease_token"),
                operations.c.state == "running",
                exists(select(held)) if held is not None else true(),
            )
            .with_for_update(key_share=True)
            .cte("held_operation")
        )
    if held is None:
        raise ValueError("a guard needs something to check")
    return held


def update_sandbox(held: CTE) -> CTE:
    """Write the changed columns of the sandbox; `active_at` only ever moves forward."""
    values: dict[str, Any] = {name: bind(sandboxes, "s_", name) for name in _SANDBOX_CHANGES}
    values["active_at"] = func.greatest(sandboxes.c.active_at, bind(sandboxes, "s_", "active_at"))
    return (
        update(sandboxes)
        .where(sandboxes.c.id == bind(sandboxes, "s_", "id"), exists(select(held)))
        .values(values)
        .returning(sandboxes.c.id)
        .cte("written_sandbox")
    )


def update_operation(held: CTE) -> CTE:
    """Write step, progress and state, and prolong the lease by its length."""
    values: dict[str, Any] = {name: bind(operations, "o_", name) for name in _OPERATION_CHANGES}
    values["lease_deadline_at"] = in_seconds(operations.c.lease_s)
    return (
        update(operations)
        .where(operations.c.id == bind(operations, "o_", "id"), exists(select(held)))
        .values(values)
        .returning(operations, is_overdue())
        .cte("written_operation")
    )


def cancel_operations(held: CTE) -> CTE:
    """Ask every open operation of the sandbox to cancel."""
    return (
        update(operations)
        .where(
            operations.c.sandbox_id == bind(sandboxes, "s_", "id"),
            operations.c.state == "running",
            operations.c.cancel_requested == false(),
            exists(select(held)),
        )
        .values(cancel_requested=True)
        .returning(operations.c.id)
        .cte("cancelled_operations")
    )


def insert_operation(held: CTE | None) -> CTE:
    """Insert a new operation; its deadline and lease begin by the database's clock."""
    columns = [column.name for column in operations.columns]
    durations = {
        "deadline_at": in_seconds(bindparam("f_deadline_s", type_=Double())),
        "lease_deadline_at": in_seconds(bindparam("f_lease_s", type_=Double())),
    }
    source = select(*[durations.get(name, bind(operations, "f_", name)) for name in columns])
    return insert_from(operations, columns, source, held).returning(operations.c.id).cte("new_operation")


def insert_sandbox(held: CTE | None) -> CTE:
    """Insert a sandbox."""
    columns = [column.name for column in sandboxes.columns]
    source = select(*[bind(sandboxes, "s_", name) for name in columns])
    return insert_from(sandboxes, columns, source, held).returning(sandboxes.c.id).cte("new_sandbox")


def insert_transition(held: CTE | None) -> CTE:
    """Insert a log row."""
    source = select(*[bind(transitions, "t_", name) for name in _TRANSITION_COLUMNS])
    return (
        insert_from(transitions, _TRANSITION_COLUMNS, source, held)
        .returning(transitions.c.id)
        .cte("new_transition")
    )


def insert_reservation(held: CTE) -> CTE:
    """Insert a reservation."""
    columns = [column.name for column in reservations.columns]
    source = select(*[bind(reservations, "r_", name) for name in columns])
    return (
        insert_from(reservations, columns, source, held).returning(reservations.c.sandbox_id).cte("reserved")
    )


def delete_reservation(held: CTE) -> CTE:
    """Remove the reservation of the operation's sandbox."""
    return (
        delete(reservations)
        .where(reservations.c.sandbox_id == bindparam("r_sandbox_id"), exists(select(held)))
        .returning(reservations.c.sandbox_id)
        .cte("released")
    )


def update_reservation(held: CTE) -> CTE:
    """Have another amount of memory reserved for the operation's sandbox."""
    return (
        update(reservations)
        .where(reservations.c.sandbox_id == bindparam("r_sandbox_id"), exists(select(held)))
        .values(memory_mib=bindparam("r_amount"))
        .returning(reservations.c.sandbox_id)
        .cte("reserved_anew")
    )


def count_of(held: CTE, *writes: CTE) -> Select[Any]:
    """Return the statement that performs the writes and says whether the checks passed."""
    return select(func.count()).select_from(held).add_cte(*writes)


def insert_from(table: Table, columns: Sequence[str], source: Select[Any], held: CTE | None) -> Insert:
    guarded = source if held is None else source.select_from(held)
    return insert(table).from_select(list(columns), guarded, include_defaults=False)


def sandbox_parameters(sandbox: Sandbox) -> Parameters:
    """Return the parameters of `guard(sandbox=True)` and `update_sandbox`."""
    return {"s_id": sandbox.id, **prefixed("s_", rows.sandbox_changes(sandbox))}


def new_sandbox_parameters(sandbox: Sandbox, sealer: Sealer) -> Parameters:
    """Return the parameters of `insert_sandbox`."""
    return prefixed("s_", rows.sandbox_values(sandbox, sealer))


def operation_parameters(operation: Operation) -> Parameters:
    """Return the parameters of `guard(operation=True)` and `update_operation`."""
    token = operation.lease.token if operation.lease else -1
    return {
        "o_id": operation.id,
        "o_lease_token": token,
        **prefixed("o_", rows.operation_changes(operation)),
    }


def new_operation_parameters(operation: Operation) -> Parameters:
    """Return the parameters of `insert_operation`; an operation without a lease may be taken at once."""
    lease = operation.lease
    lease_s = (lease.deadline_at - operation.created_at).total_seconds() if lease else 0.0
    values = {
        **rows.operation_values(operation),
        "lease_holder": lease.holder if lease else None,
        "lease_token": lease.token if lease else 0,
        "lease_s": lease_s or DEFAULT_LEASE_S,
    }
    return {
        **prefixed("f_", values),
        "f_deadline_s": (operation.deadline_at - operation.created_at).total_seconds(),
    }


def transition_parameters(transition: Transition) -> Parameters:
    """Return the parameters of `insert_transition`."""
    return prefixed("t_", rows.transition_values(transition))
