"""Which operation answers to which name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from sandfleet.agent import identity_files, machine_id
from sandfleet.agent.context import Agent
from sandfleet.agent.operations import (
    clock,
    exec_attach,
    exec_kill,
    exec_list,
    exec_read,
    exec_resize,
    exec_start,
    exec_status,
    exec_stdin,
    exec_wait,
    file_delete,
    file_list,
    file_mkdir,
    file_read,
    file_stat,
    file_write,
    grow_disk,
    identity,
    limits,
    port_connect,
    quiesce,
    shut_down,
    stats,
)
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX, Code, Fields, Op, OperationFailed

OPERATIONS: Mapping[str, Callable[[Agent, Stream, Fields], None]] = MappingProxyType(
    {
        Op.CLOCK: clock.start,
        Op.EXEC_ATTACH: exec_attach.start,
        Op.EXEC_KILL: exec_kill.start,
        Op.EXEC_LIST: exec_list.start,
        Op.EXEC_READ: exec_read.start,
        Op.EXEC_RESIZE: exec_resize.start,
        Op.EXEC_START: exec_start.start,
        Op.EXEC_STATUS: exec_status.start,
        Op.EXEC_STDIN: exec_stdin.start,
        Op.EXEC_WAIT: exec_wait.start,
        Op.FILE_DELETE: file_delete.start,
        Op.FILE_LIST: file_list.start,
        Op.FILE_MKDIR: file_mkdir.start,
        Op.FILE_READ: file_read.start,
        Op.FILE_STAT: file_stat.start,
        Op.FILE_WRITE: file_write.start,
        Op.GROW_DISK: grow_disk.start,
        Op.IDENTITY: identity.start,
        Op.LIMITS: limits.start,
        Op.PORT_CONNECT: port_connect.start,
        Op.QUIESCE: quiesce.start,
        Op.REHEARSAL: identity.rehearse,
        Op.SHUT_DOWN: shut_down.start,
        Op.STATS: stats.start,
    }
)


_OF_EXECS = frozenset({Op.EXEC_START, Op.EXEC_WAIT})
_CHANGES_NO_FILE = frozenset(
    {Op.CLOCK, Op.IDENTITY, Op.LIMITS, Op.QUIESCE, Op.REHEARSAL, Op.SHUT_DOWN, Op.STATS}
)


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Begin the operation that the request names."""
    operation = OPERATIONS.get(fields.text("op"))
    if operation is None:
        raise OperationFailed(Code.BAD_REQUEST, f"no operation {fields.text('op')[:40]}")
    if not agent.is_used and fields.text("op") not in _CHANGES_NO_FILE and not _is_warm_up(fields):
        agent.is_used = True
        identity_files.let_go()
    if agent.is_init and agent.has_identity and not agent.has_kept_id and _is_use(fields):
        machine_id.keep()
        agent.has_kept_id = True
    operation(agent, stream, fields)


def _is_use(fields: Fields) -> bool:
    """Whether a tenant may see by this operation what the guest is known by."""
    return fields.text("op") in (Op.EXEC_START, Op.FILE_READ) and not _is_warm_up(fields)


def _is_warm_up(fields: Fields) -> bool:
    """Whether it is about a command that the host runs before the guest is anybody's."""
    return fields.text("op") in _OF_EXECS and fields.text("id").startswith(WARM_EXEC_PREFIX)
