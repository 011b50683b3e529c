"""Settings of `sandfleet server`: one typed schema; an unknown or missing key stops the start.

A TOML file gives them, environment variables with the prefix `SANDFLEET_` override it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sandfleet.model.resources import SizeLimits
from sandfleet.planning.placement import PlacementPolicy

ENV_PREFIX = "SANDFLEET_"

Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class ControlPlaneSettings(BaseSettings):
    """Everything an operator may set. Defaults are those of one machine."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    listen_host: str = "127.0.0.1"
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    metrics_listen_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A second, internal listener that serves `/metrics` without a credential."""
    public_url: str | None = None
    postgres_url: SecretStr
    redis_url: SecretStr
    master_secret: SecretStr
    bootstrap_key: SecretStr
    join_token: SecretStr
    region: str = "local"
    blob_store_url: str | None = None
    """Object store of snapshots: `file:///dir`, `s3://…`, `az://…`, `gs://…`. Without it nothing is saved."""
    sandbox_domain: str = "localhost:8080"
    replica_id: str | None = None

    auth_query_key: bool = True
    key_cache_s: Seconds = 3
    fleet_token_ttl_s: PositiveSeconds = 300

    sandbox_wait_s: PositiveSeconds = 90
    answer_by_s: PositiveSeconds = 25
    creation_queue_s: PositiveSeconds = 30
    create_deadline_s: PositiveSeconds = 120
    save_deadline_s: PositiveSeconds = 900
    exec_pad_after_s: PositiveSeconds = 10
    exec_pad_every_s: PositiveSeconds = 10
    sse_keepalive_s: PositiveSeconds = 10
    exec_timeout_default_s: Annotated[int, Field(ge=1, le=86400)] = 60
    body_bytes_max: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    file_bytes_max: Annotated[int, Field(gt=0)] = 2 * 1024**3
    sandbox_token_ttl_s: PositiveSeconds = 86400
    signed_url_ttl_s: PositiveSeconds = 3600
    preview_needs_record: bool = False
    """Whether only ports with a record are shown to the outside."""
    stopped_kept_days: Annotated[int, Field(ge=0)] = 30
    events_kept_days: Annotated[int, Field(ge=0)] = 30

    memory_default_mb: Annotated[int, Field(gt=0)] = 1024
    memory_base_mb: Annotated[int, Field(gt=0)] = 512
    memory_max_mb: Annotated[int, Field(gt=0)] = 65536
    memory_block_mb: Annotated[int, Field(gt=0)] = 128
    disk_default_mb: Annotated[int, Field(gt=0)] = 20480
    disk_min_mb: Annotated[int, Field(gt=0)] = 20480
    disk_max_mb: Annotated[int, Field(gt=0)] = 262144
    placement_memory_ratio_max: Annotated[float, Field(gt=0)] = 1.0
    placement_cpu_ratio_max: Annotated[float, Field(gt=0)] = 100.0
    placement_disk_ratio_max: Annotated[float, Field(gt=0)] = 100.0

    heartbeat_interval_s: PositiveSeconds = 2
    worker_silent_s: PositiveSeconds = 15
    operation_lease_s: PositiveSeconds = 15
    leader_lease_s: PositiveSeconds = 6
    loop_interval_s: PositiveSeconds = 1
    postgres_pool_max: Annotated[int, Field(ge=1)] = 20

    drain_notice_s: Seconds = 1
    """How long `/readyz` says 503 before the listener closes, so that balancers look away first."""
    drain_max_s: Seconds = 25
    log_level: str = "info"

    @field_validator("master_secret")
    @classmethod
    def _master_secret_is_hex(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if len(text) != 64 or any(digit not in "0123456789abcdefABCDEF" for digit in text):
            raise ValueError("master_secret must be 64 hexadecimal digits")
        return value

    @field_validator("bootstrap_key")
    @classmethod
    def _bootstrap_key_form(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        plain = text.replace("-", "").replace("_", "")
        if not 16 <= len(text) <= 128 or not (plain.isascii() and plain.isalnum()):
            raise ValueError("bootstrap_key must be 16 to 128 characters of [A-Za-z0-9_-]")
        return value

    @field_validator("join_token")
    @classmethod
    def _join_token_form(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 16:
            raise ValueError("join_token must have at least 16 characters")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override what the file gave as arguments."""
        return env_settings, init_settings

    @property
    def size_limits(self) -> SizeLimits:
        """The sizes that this fleet offers."""
        return SizeLimits(
            memory_default_mib=self.memory_default_mb,
            memory_base_mib=self.memory_base_mb,
            memory_max_mib=self.memory_max_mb,
            memory_block_mib=self.memory_block_mb,
            disk_default_mib=self.disk_default_mb,
            disk_min_mib=self.disk_min_mb,
            disk_max_mib=self.disk_max_mb,
        )

    @property
    def placement_policy(self) -> PlacementPolicy:
        """How full a worker may become."""
        return PlacementPolicy(
            memory_ratio_max=self.placement_memory_ratio_max,
            cpu_ratio_max=self.placement_cpu_ratio_max,
            disk_ratio_max=self.placement_disk_ratio_max,
        )

    @property
    def origin(self) -> str:
        """The public origin, without a trailing slash and without `/api`."""
        if self.public_url is None:
            return f"http://{self.listen_host}:{self.listen_port}"
        return self.public_url.rstrip("/").removesuffix("/api")

    def redacted(self) -> dict[str, Any]:
        """Return the effective configuration for people: secrets are shown as stars."""
        shown = self.model_dump()
        return {
            name: "**********" if isinstance(value, SecretStr) else value for name, value in shown.items()
        }


def load_settings(path: Path | None) -> ControlPlaneSettings:
    """Read the TOML file, overridden by the environment; an unknown name in the file refuses the start."""
    given: dict[str, Any] = {}
    if path is not None:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    return ControlPlaneSettings(**given)
