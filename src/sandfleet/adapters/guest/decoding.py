"""The guest's answers as values of the port. Every field of a guest is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sandfleet.model.errors import SandfleetError
from sandfleet.ports.guest import ExecStatus, FileEntry, GuestStats
from sandfleet.wire.agent_messages import Fields, MalformedMessage

Raw = TypeVar("Raw")
Value = TypeVar("Value")


def checked(decode: Callable[[Raw], Value], raw: Raw) -> Value:
    """Return what `decode` makes of an answer; nonsense fails this operation and no other."""
    try:
        return decode(raw)
    except MalformedMessage as error:
        raise SandfleetError(f"the guest's answer makes no sense: {error}") from error


def exec_status(fields: Fields) -> ExecStatus:
    """Return an exec's status."""
    return ExecStatus(
        exec_id=fields.text("id"),
        argv=tuple(fields.texts("argv")),
        running=fields.flag("running"),
        exit_code=fields.integer_or_none("exit_code"),
        signal=fields.integer_or_none("signal"),
        timed_out=fields.flag("timed_out"),
        started_at_s=fields.number("started_at_s"),
        ended_at_s=fields.number_or_none("ended_at_s"),
        output_bytes=fields.integer("output_bytes"),
        oldest_offset=fields.integer("oldest_offset"),
        # An agent of before sessions says none of these; its VM may still run under a newer worker.
        has_terminal=fields.flag("terminal", False),
        linger_s=fields.number_or_none("linger_s"),
        was_attached=fields.flag("was_attached", False),
        is_session=fields.flag("session", False),
    )


def file_entry(fields: Fields) -> FileEntry:
    """Return a directory entry."""
    return FileEntry(
        name=fields.text("name"),
        path=fields.text("path"),
        is_dir=fields.flag("is_dir"),
        size=fields.integer("size"),
        mode=fields.integer("mode"),
        mtime_s=fields.number("mtime_s"),
    )


def guest_stats(fields: Fields) -> GuestStats:
    """Return what the guest measured."""
    return GuestStats(
        memory_total=fields.integer("memory_total"),
        memory_used=fields.integer("memory_used"),
        memory_limit=fields.integer("memory_limit"),
        cpu_percent=fields.number("cpu_percent"),
        pids=fields.integer("pids"),
        net_input=fields.integer("net_input"),
        net_output=fields.integer("net_output"),
        disk_total=fields.integer("disk_total"),
        disk_used=fields.integer("disk_used"),
        uptime_s=fields.number("uptime_s"),
    )
