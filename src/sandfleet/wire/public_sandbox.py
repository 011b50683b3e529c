"""Bodies of what is asked of one sandbox besides its life: URLs, tags, stats, previews, sizes."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from sandfleet.wire.public_api import AnswerBody, Integer, RequestBody, SandboxBody, Time

_TEXT: JsonDict = {"pattern": "^[^\\u0000]*$"}
_REQUIRED_TEXT: JsonDict = {"type": "string", "minLength": 1, **_TEXT}


class AllowedHostsBody(AnswerBody):
    """Which hosts a sandbox's secrets may be sent to; without a store nothing is said of any."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    egress_allowlist: list[str]
    per_secret_allowed_hosts: dict[str, list[str]]


class SignUrl(RequestBody):
    """`POST …/files/download-url` and `…/upload-url`."""

    model_config = ConfigDict(json_schema_extra={"required": ["path"]})

    path: str | None = Field(default=None, json_schema_extra=_REQUIRED_TEXT)
    expires_in: Integer | None = Field(
        default=None,
        description="seconds, at most a day",
        json_schema_extra={"minimum": 1, "maximum": 2**31 - 1},
    )


def _describe_tags(schema: dict[str, Any]) -> None:
    """Publish the map itself, which is what clients send."""
    schema.pop("properties", None)
    schema["maxProperties"] = 50
    schema["propertyNames"] = {"pattern": "^(?!oc:)[A-Za-z0-9_.\\-:]{1,128}$"}
    schema["additionalProperties"] = {"type": "string", "maxLength": 256, **_TEXT}


class ReplaceTags(RequestBody):
    """`PUT …/tags`: the whole body is the map."""

    model_config = ConfigDict(json_schema_extra=_describe_tags)

    tags: dict[str, str | None] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _match_names(cls, data: Any) -> Any:
        return {"tags": data}


class CreatePreview(RequestBody):
    """`POST …/preview`."""

    model_config = ConfigDict(json_schema_extra={"required": ["port"]})

    port: Integer | None = Field(
        default=None, json_schema_extra={"type": "integer", "minimum": 1, "maximum": 65535}
    )
    domain: str | None = Field(
        default=None,
        description="a host name of your own",
        json_schema_extra={"examples": ["app.example.org"]},
    )
    auth_config: dict[str, Any] | None = None


class ChangeSize(RequestBody):
    """`PUT …/limits` and `POST …/scale`."""

    model_config = ConfigDict(json_schema_extra={"required": ["memoryMB"]})

    memory_mb: Integer | None = Field(
        default=None, alias="memoryMB", json_schema_extra={"type": "integer", "minimum": 1}
    )
    cpu_percent: Integer | None = Field(
        default=None,
        description="of one core; all vCPUs if absent",
        json_schema_extra={"minimum": 1, "maximum": 1600},
    )


class ChangeAutoscale(RequestBody):
    """`PUT …/autoscale`; bounds that are absent stay as they were."""

    model_config = ConfigDict(json_schema_extra={"required": ["enabled"]})

    enabled: bool | None = Field(default=None, json_schema_extra={"type": "boolean"})
    min_memory_mb: Integer | None = Field(default=None, alias="minMemoryMB", json_schema_extra={"minimum": 1})
    max_memory_mb: Integer | None = Field(default=None, alias="maxMemoryMB", json_schema_extra={"minimum": 1})


class ChangeScalingLock(RequestBody):
    """`PUT …/scaling-lock`."""

    model_config = ConfigDict(json_schema_extra={"required": ["locked"]})

    locked: bool | None = Field(default=None, json_schema_extra={"type": "boolean"})


class TokenBody(AnswerBody):
    """The answer of `token/refresh`."""

    token: str


class SignedUrlBody(AnswerBody):
    """A URL that needs no key, and until when it works."""

    url: str
    expires_at: Time


class TagsBody(AnswerBody):
    """The tags of one sandbox."""

    tags: dict[str, str]
    tags_last_updated_at: Time | None


class TagKey(AnswerBody):
    """One tag key of an organisation."""

    key: str
    sandbox_count: int
    value_count: int


class TagKeys(AnswerBody):
    """The answer of `/api/tags`."""

    keys: list[TagKey]


class StatsBody(AnswerBody):
    """What a sandbox uses now; bytes, and percent of one core."""

    cpu_percent: float
    mem_usage: int
    mem_limit: int
    net_input: int
    net_output: int
    pids: int
    status: str


class PreviewBody(AnswerBody):
    """A recorded guest port."""

    id: str
    sandbox_id: str
    org_id: str
    hostname: str
    custom_hostname: str | None
    port: int
    ssl_status: str
    auth_config: dict[str, Any]
    created_at: Time


class PreviewTokenBody(AnswerBody):
    """The new token of the gate, shown once."""

    preview_auth_token: str
    scheme: str


class GatedSandboxBody(SandboxBody):
    """The sandbox object of a create with `previewAuth`: its token is shown this once."""

    preview_auth_token: str


class AutoscaleBody(AnswerBody):
    """Whether the fleet changes the memory by what is used, and between which sizes."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    enabled: bool
    min_memory_mb: int = Field(serialization_alias="minMemoryMB")
    max_memory_mb: int = Field(serialization_alias="maxMemoryMB")


class ScalingLockBody(AnswerBody):
    """Whether the size may be changed."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    locked: bool


class SizeBody(AnswerBody):
    """What the guest has, or with `pending` what it will have."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    worker_id: str | None = Field(serialization_alias="workerID")
    memory_mb: int = Field(serialization_alias="memoryMB")
    cpu_percent: int
    migrated: bool
    ok: bool
    autoscale_disabled: bool
    pending: bool
