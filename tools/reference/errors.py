"""The page of error codes, from the classes of `model/errors.py` and the status table of `wire/errors.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from sandfleet.model import errors
from sandfleet.wire.errors import STATUS

_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Errors

Every error answer has the body `{"error": text, "code": code, "requestId": id}`, some with `details`.
Decide by `code`; `error` is a sentence for people. Answers with status 503 carry `Retry-After` in seconds.

A class may be raised with a more particular code than its own: `invalid_argument` or `unknown_template` are
`BadRequest`, for instance. The status follows the class.
"""


def errors_page() -> str:
    """Return the page."""
    rows = [_row(kind, depth) for kind, depth in _tree(errors.SandfleetError, 0)]
    table = ["| HTTP | usual code | class | meaning |", "|---|---|---|---|", *rows]
    return _INTRODUCTION + "\n" + "\n".join(table) + "\n"


def _tree(kind: type[errors.SandfleetError], depth: int) -> Iterator[tuple[type[errors.SandfleetError], int]]:
    yield kind, depth
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def _row(kind: type[errors.SandfleetError], depth: int) -> str:
    status = next((STATUS[parent] for parent in kind.__mro__ if parent in STATUS), 500)
    meaning = (inspect.getdoc(kind) or "").splitlines()[0]
    return f"| {status} | `{kind.code}` | {'· ' * depth}`{kind.__name__}` | {meaning} |"
