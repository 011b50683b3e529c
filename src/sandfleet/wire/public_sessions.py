"""Request and answer bodies of exec sessions and terminals."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from sandfleet.wire.public_api import AnswerBody, Integer, RequestBody, Time

_TEXT: JsonDict = {"pattern": "^[^\\u0000]*$"}
_REQUIRED_TEXT: JsonDict = {"type": "string", "minLength": 1, **_TEXT}

_ENVS: JsonDict = {
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"type": ["string", "null"], **_TEXT},
}


class StartSession(RequestBody):
    """`POST …/exec`."""

    model_config = ConfigDict(json_schema_extra={"required": ["cmd"]})

    cmd: str | None = Field(
        default=None, description="the program; never wrapped in a shell", json_schema_extra=_REQUIRED_TEXT
    )
    args: list[str] | None = Field(default=None, json_schema_extra={"items": {"type": "string", **_TEXT}})
    envs: dict[str, str | None] | None = Field(default=None, json_schema_extra=_ENVS)
    cwd: str | None = Field(default=None, json_schema_extra=_TEXT)
    timeout: Integer | None = Field(
        default=None,
        description="seconds until it is ended; absent or 0: never",
        json_schema_extra={"minimum": 0, "maximum": 86400},
    )
    max_run_after_disconnect: Integer | None = Field(
        default=None,
        description="seconds it may run after its last client has left; absent or 0: no limit",
        json_schema_extra={"minimum": 0, "maximum": 2592000},
    )


class KillSession(RequestBody):
    """`POST …/exec/{sid}/kill`."""

    signal: Integer | None = Field(
        default=None,
        description="9 reaches everything that the session started, others its process group",
        json_schema_extra={"minimum": 1, "maximum": 64, "default": 9},
    )


class StartTerminal(RequestBody):
    """`POST …/pty`."""

    cols: Integer | None = Field(
        default=None, json_schema_extra={"minimum": 0, "maximum": 65535, "default": 80}
    )
    rows: Integer | None = Field(
        default=None, json_schema_extra={"minimum": 0, "maximum": 65535, "default": 24}
    )
    shell: str | None = Field(default=None, json_schema_extra={**_TEXT, "default": "/bin/bash"})
    args: list[str] | None = Field(
        default=None,
        description="arguments of `shell`, which may be any program",
        json_schema_extra={"items": {"type": "string", **_TEXT}},
    )
    envs: dict[str, str | None] | None = Field(default=None, json_schema_extra=_ENVS)
    cwd: str | None = Field(default=None, json_schema_extra=_TEXT)


class ResizeTerminal(RequestBody):
    """`POST …/pty/{sid}/resize`."""

    cols: Integer | None = Field(default=None, json_schema_extra={"minimum": 0, "maximum": 65535})
    rows: Integer | None = Field(default=None, json_schema_extra={"minimum": 0, "maximum": 65535})


class Session(AnswerBody):
    """A session as it stands."""

    session_id: str = Field(alias="sessionID")
    sandbox_id: str = Field(alias="sandboxID")
    command: str
    args: list[str]
    running: bool
    exit_code: int | None = None
    started_at: Time
    ended_at: Time | None = None
    attached_clients: int
    output_bytes: int


class Terminal(AnswerBody):
    """A new terminal."""

    session_id: str = Field(alias="sessionID")
    sandbox_id: str = Field(alias="sandboxID")
