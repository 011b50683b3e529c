"""Bodies of hibernate, wake, checkpoints, restore and fork."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from sandfleet.wire.public_api import AnswerBody, Integer, RequestBody, SandboxBody, Time

_TEXT: JsonDict = {"pattern": "^[^\\u0000]*$"}
_SECONDS: JsonDict = {"minimum": 0, "maximum": 2**31 - 1}
_ENVS: JsonDict = {
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": _TEXT,
}
_LABELS: JsonDict = {"propertyNames": _TEXT, "additionalProperties": _TEXT}


class WakeSandbox(RequestBody):
    """`POST …/wake`."""

    timeout: Integer | None = Field(
        default=None,
        description="a new idle timeout in seconds; absent: the one it had",
        json_schema_extra=_SECONDS,
    )


class HibernatedBody(AnswerBody):
    """The answer of `POST …/hibernate`; `status` is `hibernating` when it goes on behind the answer."""

    sandbox_id_old: str = Field(serialization_alias="sandboxID")
    sandbox_id: str
    status: str
    hibernation_key: str
    size_bytes: int
    region: str
    template: str
    hibernated_at: Time | None


class CreateCheckpoint(RequestBody):
    """`POST …/checkpoints`."""

    model_config = ConfigDict(json_schema_extra={"required": ["name"]})

    name: str | None = Field(
        default=None,
        json_schema_extra={
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": r"^[^\u0000]*\S[^\u0000]*$",
        },
    )
    kind: str | None = Field(default=None, json_schema_extra={"enum": ["full"]})


class UploadBody(AnswerBody):
    """How much of what was saved is in the object store."""

    bytes_done: int
    bytes_total: int


class CheckpointBody(AnswerBody):
    """A checkpoint. When it is `ready` both keys are set and it has a size.

    `upload` is there while it is `processing` and its worker has said how far it is.
    """

    id: str
    sandbox_id: str
    org_id: str
    name: str
    kind: str
    status: str
    rootfs_s3_key: str = Field(serialization_alias="rootfsS3Key")
    workspace_s3_key: str = Field(serialization_alias="workspaceS3Key")
    size_bytes: int
    memory_mb: int = Field(serialization_alias="memoryMB")
    sandbox_config: dict[str, Any]
    is_public: bool
    created_at: Time
    ready_at: Time | None
    failed_at: Time | None
    error_msg: str | None
    upload: UploadBody | None = None


class RestoringBody(AnswerBody):
    """The answer of `POST …/restore`; calls on the sandbox wait until it is there."""

    sandbox_id: str
    checkpoint_id: str
    status: str


class ForkSandbox(RequestBody):
    """`POST /api/sandboxes/from-checkpoint/{cp}` and `POST …/fork`."""

    timeout: Integer | None = Field(
        default=None, description="idle timeout in seconds; 0 = never", json_schema_extra=_SECONDS
    )
    envs: dict[str, str | None] | None = Field(
        default=None, description="over those of the source", json_schema_extra=_ENVS
    )
    metadata: dict[str, str | None] | None = Field(
        default=None, description="merged over the source's", json_schema_extra=_LABELS
    )
    memory_mb: Integer | None = Field(
        default=None, alias="memoryMB", description="less than the source has is raised to it"
    )
    cpu_count: Integer | None = Field(default=None, alias="cpuCount")
    disk_mb: Integer | None = Field(default=None, alias="diskMB")
    alias: str | None = Field(default=None, json_schema_extra={"maxLength": 128, **_TEXT})
    secret_store: str | None = Field(default=None, exclude=True)


class MissingFork(AnswerBody):
    """One fork of a partial one that there is not."""

    error: str
    code: str


class ForkedBody(AnswerBody):
    """The answer of `POST …/fork`."""

    parent_id: str = Field(serialization_alias="parentID")
    pause_ms: float
    sandboxes: list[SandboxBody]
    failed: list[MissingFork] | None = None
