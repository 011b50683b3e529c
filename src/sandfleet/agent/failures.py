"""What went wrong, as the host is told it."""

from __future__ import annotations

import errno
import os

from sandfleet.wire.agent_messages import Code, MalformedMessage, OperationFailed

_BY_ERRNO = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.NOT_A_DIRECTORY,
    errno.EISDIR: Code.IS_DIRECTORY,
    errno.ENOSPC: Code.DISK_FULL,
    errno.EDQUOT: Code.DISK_FULL,
}
_CALLERS_FAULT = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EINVAL,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTEMPTY,
        errno.EPERM,
        errno.EROFS,
    }
)


def failure_of(error: BaseException) -> OperationFailed:
    """Return the answer for an exception."""
    if isinstance(error, OperationFailed):
        return error
    if isinstance(error, MalformedMessage):
        return OperationFailed(Code.BAD_REQUEST, str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OperationFailed(_code_of(error.errno), _text_of(error))
    return OperationFailed(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _code_of(number: int) -> str:
    if number in _CALLERS_FAULT:
        return Code.BAD_REQUEST
    return _BY_ERRNO.get(number, Code.INTERNAL)


def _text_of(error: OSError) -> str:
    reason = os.strerror(error.errno or 0)
    named = isinstance(error.filename, (str, bytes))  # it may be a descriptor's number
    return f"{reason}: {os.fsdecode(error.filename)}" if named else reason
