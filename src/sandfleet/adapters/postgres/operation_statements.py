"""The two statements of an operation's life: how it begins and how it ends, with all that goes with it."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Select

from sandfleet.adapters.postgres import saved_rows
from sandfleet.adapters.postgres.statements import (
    count_of,
    delete_reservation,
    guard,
    insert_operation,
    insert_transition,
    update_operation,
    update_reservation,
    update_sandbox,
)


@cache
def start_statement(*, term: bool, snapshot: bool = False, checkpoint: bool = False) -> Select[Any]:
    """Return the statement that changes a sandbox and begins an operation on it."""
    held = guard(term=term, sandbox=True)
    writes = [update_sandbox(held), insert_operation(held), insert_transition(held)]
    if snapshot:
        writes.append(saved_rows.insert_snapshot(held))
    if checkpoint:
        writes.append(saved_rows.insert_checkpoint(held))
    return count_of(held, *writes)


@cache
def finish_statement(
    *,
    sandbox: bool,
    transition: bool,
    follow_up: bool,
    releases: bool,
    snapshot: bool = False,
    reserves: bool = False,
) -> Select[Any]:
    """Return the statement that ends an operation with all that its end means."""
    held = guard(sandbox=sandbox, operation=True, logged_only=transition and not sandbox)
    writes = [update_operation(held)]
    if sandbox:
        writes.append(update_sandbox(held))
    if transition:
        writes.append(insert_transition(held))
    if follow_up:
        writes.append(insert_operation(held))
    if releases:
        writes.append(delete_reservation(held))
    if reserves:
        writes.append(update_reservation(held))
    if snapshot:
        writes += [saved_rows.update_snapshot(held), saved_rows.update_checkpoints_of(held)]
    return count_of(held, *writes)
