"""From what a client saw of one call to the steps that the sandbox must, or may, have made.

Rule 1: an answer is believed: its steps are certain and lie between call and answer.
Rule 2: no answer, or one about the fleet and not about the sandbox, says nothing: each step may have
happened at any time from the call on.
Rule 3: a refusal that names the sandbox's status is a reading of that status.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from sandfleet.testing.histories.linearizability import Step
from sandfleet.testing.histories.records import Record

_READINGS = MappingProxyType(
    {
        "gone": "has_ended",
        "not_found": "is_unknown",
        "not_running": "is_asleep",
        "not_hibernated": "is_running",
    }
)
"""What a refusal says about the sandbox, by its code."""
_REFUSALS = frozenset(
    {
        *_READINGS,
        "operation_in_progress",
        "guest_disk_full",
        "agent_unresponsive",
        "no_capacity",
        "quota_exceeded",
    }
)


def steps_of(record: Record) -> list[Step]:
    """Return the steps of one record."""
    return _STEPS[record.kind](record)


def _create(record: Record) -> list[Step]:
    if record.is_answered:
        return [_certain(record, "create_begins"), _certain(record, "create_ends")]
    if record.error == "failed":
        return [_certain(record, "create_begins"), _certain(record, "create_fails")]
    if record.error in _REFUSALS:
        return []
    return [_perhaps(record, name) for name in ("create_begins", "create_ends", "create_fails")]


def _get(record: Record) -> list[Step]:
    return [_certain(record, "shows")] if record.is_answered else _reading(record)


def _delete(record: Record) -> list[Step]:
    if record.is_answered:
        return [_certain(record, "killed")]
    return _reading(record) or [_perhaps(record, "killed")]


def _hibernate(record: Record) -> list[Step]:
    if record.is_answered and record.answer == "hibernated":
        return [_certain(record, "hibernate_begins"), _certain(record, "hibernate_ends")]
    return _verb(record, "hibernate")


def _wake(record: Record) -> list[Step]:
    if record.is_answered and record.answer == "running":
        return [_certain(record, "wake_begins"), _certain(record, "wake_ends")]
    return _verb(record, "wake")


def _touch(record: Record) -> list[Step]:
    # Whoever hibernates meanwhile is answered by another wake.
    ends_at = record.returned_at if record.is_answered else math.inf
    wakes = [
        replace(_step(record, name, ends_at=ends_at, is_certain=False), repeats=True)
        for name in ("wake_begins", "wake_ends")
    ]
    if record.is_answered:
        return [*wakes, _certain(record, "is_running")]
    return [*wakes, _perhaps(record, "comes_back"), *_reading(record)]


def _verb(record: Record, verb: str) -> list[Step]:
    """Return the steps of a verb that was not seen done: it goes on, was refused, or nobody knows."""
    if record.is_answered:
        later = [_perhaps(record, f"{verb}_ends"), _perhaps(record, "comes_back")]
        return [_certain(record, f"{verb}_begins"), *later]
    if record.error in _REFUSALS:
        tried = _step(record, f"{verb}_begins", ends_at=record.returned_at, is_certain=False)
        return [tried, _certain(record, "comes_back"), *_reading(record)]
    return [_perhaps(record, name) for name in (f"{verb}_begins", f"{verb}_ends", "comes_back")]


def _reading(record: Record) -> list[Step]:
    name = _READINGS.get(record.error or "")
    return [_certain(record, name)] if name is not None else []


def _certain(record: Record, name: str) -> Step:
    return _step(record, name, ends_at=record.returned_at, is_certain=True)


def _perhaps(record: Record, name: str) -> Step:
    return _step(record, name, ends_at=math.inf, is_certain=False)


def _step(record: Record, name: str, *, ends_at: float, is_certain: bool) -> Step:
    return Step(
        name=name,
        invoked_at=record.invoked_at,
        returned_at=ends_at,
        answer=_told(record),
        is_certain=is_certain,
        origin=record.describe(),
    )


def _told(record: Record) -> str | None:
    """Return what the step showed: for a create the id together with its key, for neither may change."""
    if record.kind != "create" or record.answer is None:
        return record.answer
    return f"{record.subject} {record.answer}"


_STEPS: Mapping[str, Callable[[Record], list[Step]]] = MappingProxyType(
    {
        "create": _create,
        "get": _get,
        "delete": _delete,
        "hibernate": _hibernate,
        "wake": _wake,
        "touch": _touch,
    }
)
KINDS = frozenset(_STEPS)
