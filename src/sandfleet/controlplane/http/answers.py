"""Answers as values: a status, headers and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from pydantic import BaseModel

from sandfleet.model.errors import SandfleetError
from sandfleet.wire.errors import error_body, error_headers, status_of

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `outcome` is the status that decides whether a replay may use it."""

    status: int
    body: bytes = field(default=b"", repr=False)
    media_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    outcome: int | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request may be answered with this again instead of being run again."""
        status = self.status if self.outcome is None else self.outcome
        return status < 500 and status not in (401, 403, 408, 429)


def json_answer(status: int, body: object, *, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer of plain values."""
    return Answer(status, msgspec.json.encode(body), headers=headers or {})


def model_answer(status: int, body: BaseModel, *, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer of one model."""
    return Answer(status, model_json(body), headers=headers or {})


def model_json(body: BaseModel) -> bytes:
    """Return a model as it is sent."""
    return body.__pydantic_serializer__.to_json(body, by_alias=True)


def list_answer(items: Sequence[BaseModel], *, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a bare array."""
    return array_answer([model_json(item) for item in items], headers=headers)


def array_answer(items: Sequence[bytes], *, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a bare array of what is JSON already."""
    return Answer(200, b"[" + b",".join(items) + b"]", headers=headers or {})


def no_content() -> Answer:
    """Return 204."""
    return Answer(204, media_type=None)


def error_answer(error: SandfleetError, *, request_id: str) -> Answer:
    """Return the error envelope."""
    return json_answer(
        status_of(error), error_body(error, request_id=request_id), headers=error_headers(error)
    )
