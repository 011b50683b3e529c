"""What a client writes down of one call: one line of JSON when it begins, one when it is over.

A begin without an end is a call whose client died: nobody knows how it went. Times are those of the
machine's monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

INVOKE, RETURN, FAIL, UNKNOWN = "invoke", "return", "fail", "unknown"


class MalformedHistory(Exception):
    """The lines are no history; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One call: what was asked, of what, and what came of it."""

    process: str
    kind: str
    subject: str
    """What it was about: an idempotency key for a create, a sandbox id, `lease` or `term`."""
    invoked_at: float
    returned_at: float = math.inf
    answer: str | None = None
    error: str | None = None
    """The code of a refusal. None with an end at infinity: nobody knows."""

    @property
    def is_answered(self) -> bool:
        """Whether it was answered with what it asked for."""
        return self.error is None and self.returned_at < math.inf

    def describe(self) -> str:
        """Return the call in a line for people."""
        end = "?" if self.returned_at == math.inf else f"{self.returned_at:.3f}"
        came = self.error or self.answer or ("?" if end == "?" else "done")
        return f"{self.process}: {self.kind} {self.subject} -> {came} [{self.invoked_at:.3f}, {end}]"


def parse(lines: Iterable[str]) -> list[Record]:
    """Return the calls of a history in the order of their beginning."""
    begun: dict[tuple[str, int], Record] = {}
    over: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            key = (str(entry["process"]), int(entry["number"]))
            event, at = str(entry["event"]), float(entry["at"])
            if event == INVOKE:
                begun[key] = Record(
                    process=key[0], kind=str(entry["kind"]), subject=str(entry["subject"]), invoked_at=at
                )
            else:
                over.append(_ended(begun.pop(key), event, at, entry))
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedHistory(f"line {number}: {error!r}") from None
    return sorted([*over, *begun.values()], key=lambda record: record.invoked_at)


def _ended(record: Record, event: str, at: float, entry: dict[str, object]) -> Record:
    if event not in (RETURN, FAIL, UNKNOWN):
        raise ValueError(f"no such event: {event}")
    answer = entry.get("answer")
    error = entry.get("error")
    # What nobody knows may happen at any later time.
    return Record(
        process=record.process,
        kind=record.kind,
        subject=record.subject,
        invoked_at=record.invoked_at,
        returned_at=math.inf if event == UNKNOWN else at,
        answer=None if answer is None else str(answer),
        error=None if event == RETURN or error is None else str(error),
    )
