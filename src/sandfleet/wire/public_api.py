"""Bodies of the public API: what clients send and what they get.

Rule 1: field names match case-insensitively, an exact match wins; the keys of maps are literal.
Rule 2: `null` equals absent; unknown fields are ignored; a wrong JSON type is an error.
Rule 3: a request model only says what form a field has. Whether a value is allowed is
decided later, because an unknown sandbox comes before a bad value (order of checks).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC with `Z` and microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


Time = Annotated[datetime, PlainSerializer(format_time, return_type=str, when_used="json")]


def _integral(value: Any) -> Any:
    """Let 5.0 be the integer that it is, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integral)]


class RequestBody(BaseModel):
    """Base of what clients send: lenient about names, strict about types."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, alias_generator=to_camel, regex_engine="python-re"
    )

    @model_validator(mode="before")
    @classmethod
    def _match_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in _folded(data, cls._names()).items() if value is not None}

    @classmethod
    def _names(cls) -> dict[str, str]:
        aliases = [field.alias or name for name, field in cls.model_fields.items()]
        return {alias.lower(): alias for alias in aliases}


def _folded(data: Mapping[Any, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return `data` with known names in their exact spelling; the last of several inexact ones counts."""
    exact = {name: value for name, value in data.items() if name in names.values()}
    loose = {
        names[name.lower()]: value
        for name, value in data.items()
        if name not in exact and name.lower() in names
    }
    return loose | exact


class AnswerBody(BaseModel):
    """Base of what clients get: every key is always present."""

    model_config = ConfigDict(frozen=True, alias_generator=AliasGenerator(serialization_alias=to_camel))


class Empty(RequestBody):
    """A body without fields."""


_NO_NUL = "^[^\\u0000]*$"
_REQUIRED_TEXT: JsonDict = {"type": "string", "minLength": 1, "pattern": _NO_NUL}
_TEXT: JsonDict = {"pattern": _NO_NUL}
_ENVS: JsonDict = {
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"pattern": _NO_NUL},
}
_LABELS: JsonDict = {"propertyNames": _TEXT, "additionalProperties": _TEXT}
_NAME: JsonDict = {"minLength": 1, "maxLength": 128, "pattern": r"^[^\u0000]*[^\u0000\s][^\u0000]*$"}
_SECONDS: JsonDict = {"minimum": 0, "maximum": 2**31 - 1}
_LATER = ("image", "snapshot", "secretStore", "webhooks")


def _hide_later_fields(schema: dict[str, Any]) -> None:
    """Keep fields that this server does not offer yet out of the published document."""
    for name in _LATER:
        schema.get("properties", {}).pop(name, None)


class CreateSandbox(RequestBody):
    """`POST /api/sandboxes`."""

    model_config = ConfigDict(json_schema_extra=_hide_later_fields)

    template_id: str | None = Field(
        default=None, alias="templateID", description="`base` if absent", examples=["base"]
    )
    timeout: Integer | None = Field(
        default=None, description="idle timeout in seconds; 0 = never", json_schema_extra=_SECONDS
    )
    memory_mb: Integer | None = Field(default=None, alias="memoryMB")
    cpu_count: Integer | None = Field(default=None, alias="cpuCount")
    disk_mb: Integer | None = Field(default=None, alias="diskMB")
    envs: dict[str, str | None] | None = Field(default=None, json_schema_extra=_ENVS)
    metadata: dict[str, str | None] | None = Field(default=None, json_schema_extra=_LABELS)
    alias: str | None = Field(default=None, json_schema_extra={"maxLength": 128, **_TEXT})
    port: Integer | None = Field(
        default=None,
        description="default preview port",
        json_schema_extra={"minimum": 1, "maximum": 65535},
    )
    network_enabled: bool | None = None
    image: Any = None
    snapshot: str | None = None
    secret_store: str | None = None
    webhooks: list[Any] | None = None
    preview_auth: Any = None


class SetTimeout(RequestBody):
    """`POST …/timeout`."""

    model_config = ConfigDict(json_schema_extra={"required": ["timeout"]})

    timeout: Integer | None = Field(
        default=None,
        description="seconds, zero or positive; 0 = never",
        json_schema_extra={"type": "integer", **_SECONDS},
    )


class RunCommand(RequestBody):
    """`POST …/exec/run`, `…/commands` and `…/exec/run-async`."""

    model_config = ConfigDict(json_schema_extra={"required": ["cmd"]})

    cmd: str | None = Field(
        default=None,
        description="a shell line, or the program when `args` are given",
        json_schema_extra=_REQUIRED_TEXT,
    )
    args: list[str] | None = Field(default=None, json_schema_extra={"items": _TEXT})
    envs: dict[str, str | None] | None = Field(default=None, json_schema_extra=_ENVS)
    cwd: str | None = Field(default=None, json_schema_extra=_TEXT)
    timeout: Integer | None = Field(
        default=None,
        description="seconds, 1 to 86400; absent or 0: the default",
        json_schema_extra={"minimum": 0, "maximum": 86400},
    )


class QuotasBody(RequestBody):
    """Upper bounds over all sandboxes of an organisation; absent means no bound."""

    sandboxes: Integer | None = Field(default=None, json_schema_extra=_SECONDS)
    vcpu: Integer | None = Field(default=None, json_schema_extra=_SECONDS)
    memory_mb: Integer | None = Field(default=None, alias="memoryMB", json_schema_extra=_SECONDS)
    disk_mb: Integer | None = Field(default=None, alias="diskMB", json_schema_extra=_SECONDS)
    creates_per_second: Integer | None = Field(default=None, json_schema_extra=_SECONDS)


class CapsBody(RequestBody):
    """Upper bounds for one sandbox; absent means no bound."""

    memory_mb: Integer | None = Field(default=None, alias="memoryMB", json_schema_extra=_SECONDS)
    disk_mb: Integer | None = Field(default=None, alias="diskMB", json_schema_extra=_SECONDS)


class ChangeOrganisation(RequestBody):
    """`POST /admin/orgs` and `PATCH /admin/orgs/{org}`."""

    name: str | None = Field(default=None, json_schema_extra=_NAME)
    quotas: QuotasBody | None = None
    caps: CapsBody | None = None


class CreateOrganisation(ChangeOrganisation):
    """`POST /admin/orgs`."""

    model_config = ConfigDict(json_schema_extra={"required": ["name"]})

    name: str | None = Field(default=None, json_schema_extra={**_NAME, "type": "string"})


class CreateKey(RequestBody):
    """`POST /admin/orgs/{org}/keys`."""

    name: str | None = Field(default=None, json_schema_extra=_NAME)
    scopes: list[str] | None = Field(
        default=None,
        description='`org` and `admin`; `["org"]` if absent',
        json_schema_extra={"items": {"enum": ["org", "admin"]}},
    )


class Problem(AnswerBody):
    """Body of every error."""

    error: str
    code: str
    request_id: str
    details: dict[str, Any] | None = None


class SandboxBody(AnswerBody):
    """The sandbox object; it never contains environment variables."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    status: str
    connect_url: str = Field(serialization_alias="connectURL")
    token: str
    sandbox_domain: str
    template_id: str = Field(serialization_alias="templateID")
    template: str
    region: str | None
    worker_id: str | None = Field(serialization_alias="workerID")
    machine_id: str | None = Field(serialization_alias="machineID")
    client_id: str = Field(serialization_alias="clientID")
    cpu_count: int
    memory_mb: int = Field(serialization_alias="memoryMB")
    disk_mb: int = Field(serialization_alias="diskMB")
    timeout: int
    idle_expires_at: Time | None
    started_at: Time
    stopped_at: Time | None
    end_at: None = None
    alias: str
    metadata: dict[str, str]
    tags: dict[str, str]
    tags_last_updated_at: Time | None
    network_enabled: bool
    port: int
    secret_store: str | None
    from_checkpoint_id: str | None
    template_version: str | None
    golden_version: str | None
    patch_error: str | None
    error_msg: str | None
    stop_reason: str | None


class TransitionBody(AnswerBody):
    """One row of a sandbox's transition log."""

    id: int | None
    at: Time
    from_state: str | None = Field(serialization_alias="from")
    to_state: str | None = Field(serialization_alias="to")
    event: str
    actor: str
    reason: str
    worker_id: str | None
    epoch: int
    operation_id: str | None
    elapsed_ms: int | None


class ExecResult(AnswerBody):
    """The answer of a finished command."""

    exit_code: int
    stdout: str
    stderr: str
    signal: int | str | None = None
    timed_out: bool | None = None
    truncated: bool | None = None
    error: str | None = None
    code: str | None = None
    request_id: str | None = None


class ExecHandle(AnswerBody):
    """The answer of `run-async` for a command that has not finished."""

    exec_id: str
    running: bool
    started_at: Time | None = None
    waking: bool | None = None


class ExecProgress(AnswerBody):
    """The answer of `result`: output so far, and the exit code once there is one."""

    running: bool
    stdout: str
    stderr: str
    waking: bool | None = None
    exit_code: int | None = None
    timed_out: bool | None = None
    truncated: bool | None = None
    error: str | None = None
    code: str | None = None
    wake_ms: float | None = None
    create_ms: float | None = None
    command_ms: float | None = None


class FileEntry(AnswerBody):
    """One entry of a directory."""

    name: str
    path: str
    is_dir: bool
    size: int
    mode: int | str | None = None
    mtime: Any = None


class WorkerBody(BaseModel):
    """One worker; this body alone is snake_case."""

    worker_id: str
    machine_id: str
    region: str
    state: str
    grpc_addr: str
    http_addr: str
    capacity: int
    current: int
    cpu_pct: float
    mem_pct: float
    disk_pct: float
    total_memory_mb: int
    committed_memory_mb: int
    golden_version: str
    worker_version: str
    draining: bool
    last_seen_at: Time | None
    state_reason: str | None
    state_deadline_at: Time | None
    sandboxes: dict[str, dict[str, float | None]]


class QuotasAnswer(AnswerBody):
    """Quotas, or what of them is used; a rate is not used up, so there it is null."""

    sandboxes: int | None
    vcpu: int | None
    memory_mb: int | None = Field(serialization_alias="memoryMB")
    disk_mb: int | None = Field(serialization_alias="diskMB")
    creates_per_second: int | None


class CapsAnswer(AnswerBody):
    """Caps for one sandbox."""

    memory_mb: int | None = Field(serialization_alias="memoryMB")
    disk_mb: int | None = Field(serialization_alias="diskMB")


class OrganisationBody(AnswerBody):
    """An organisation with what it uses."""

    id: str
    name: str
    quotas: QuotasAnswer
    caps: CapsAnswer
    used: QuotasAnswer
    created_at: Time


class KeyBody(AnswerBody):
    """An API key without its secret."""

    id: str
    prefix: str
    name: str
    scopes: list[str]
    created_at: Time


class NewKeyBody(KeyBody):
    """An API key with its secret, shown once."""

    key: str
