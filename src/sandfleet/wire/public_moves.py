"""Bodies of migration."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from sandfleet.wire.public_api import AnswerBody, RequestBody

ANY_WORKER = "*"


class MigrateSandbox(RequestBody):
    """`POST …/migrate`."""

    model_config = ConfigDict(json_schema_extra={"required": ["targetWorker"]})

    target_worker: str | None = Field(
        default=None,
        description="id of a worker; `*` lets the fleet choose",
        json_schema_extra={"type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$"},
    )


class MigratedBody(AnswerBody):
    """The answer of `POST …/migrate`; with `pending` it goes on behind the answer."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    source_worker: str
    target_worker: str
    elapsed_ms: int
    downtime_ms: int
    pending: bool = False


class MigrationBody(AnswerBody):
    """How a migration under way stands. `step`: what is being done; `phase`: how far the source is."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    source_worker: str
    target_worker: str
    step: str
    phase: str
    way: str
    round: int
    elapsed_ms: int
    transferred_bytes: int
    remaining_bytes: int
    dirty_bytes_per_s: int = Field(serialization_alias="dirtyBytesPerSecond")
    bandwidth_bytes_per_s: int = Field(serialization_alias="bandwidthBytesPerSecond")
    downtime_ms_expected: float
    said: str
