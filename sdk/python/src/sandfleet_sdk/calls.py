"""Requests and answers as values; what is done with them is a flow (sans I/O).

A flow is a generator: it yields a `Call` and gets an `Answer`, or yields a `Pause`,
and returns its result. Every operation of this package is written once, as a flow;
the sync and the async client only differ in who performs its steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from sandfleet_sdk.errors import BadAnswer, SandfleetError

T = TypeVar("T")
Sink = Callable[[bytes], object]
"""Takes the pieces of a download, in order."""
Source = Callable[[], Iterable[bytes]]
"""Gives the pieces of an upload; called again when the upload is repeated."""

IDLE_TIMEOUT_S = 40.0
"""Longest silence of the server: it pads long answers with a byte every 10 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request. `repeatable`: doing it twice is as good as doing it once.

    `padded`: an answer that was long in coming says 200 first, and an error in its body.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    payload: Any = None
    source: Source | None = None
    sink: Sink | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    padded: bool = False
    idle_timeout_s: float = IDLE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer; the body of a download has gone to the sink."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """Return the body's JSON, whitespace in front of it skipped."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise BadAnswer(f"the answer is not JSON: {self.body[:80]!r}. Is the URL right?") from None

    def object(self) -> Mapping[str, Any]:
        """Return the body, which must be a JSON object."""
        value = self.json()
        if not isinstance(value, dict):
            raise BadAnswer(f"the answer is not a JSON object but {type(value).__name__}")
        return value

    def array(self) -> list[Mapping[str, Any]]:
        """Return the body, which must be a JSON array of objects."""
        value = self.json()
        if not isinstance(value, list):
            raise BadAnswer(f"the answer is not a JSON array but {type(value).__name__}")
        return value


@dataclass(frozen=True, slots=True)
class Failure:
    """No complete answer. `sent`: the server may have seen the request; `begun`: the sink has got bytes."""

    error: SandfleetError
    sent: bool
    begun: bool = False


Outcome = Answer | Failure
Flow = Generator[Call | Pause, Answer, T]
"""What an operation is: yields calls and pauses, returns a T."""


def path_of(*parts: str) -> str:
    """Return a path below the API's root, each part percent-encoded."""
    return "/" + "/".join(quote(part, safe="") for part in parts)
