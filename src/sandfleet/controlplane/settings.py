"""Settings of `sandfleet server`: one typed schema; an unknown or missing key stops the start.

A TOML file gives them, environment variables with the prefix `SANDFLEET_` override it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sandfleet.controlplane.machine_settings import CapacitySettings, PoolSettings, check_machines
from sandfleet.controlplane.rollout_settings import RolloutSettings
from sandfleet.model.resources import MEMORY_BLOCK_MIB, SizeLimits
from sandfleet.planning.absence import AbsencePolicy
from sandfleet.planning.autoscale import AutoscalePolicy
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.pressure_ground import USUAL_MARKS, Marks, Shortage

ENV_PREFIX = "SANDFLEET_"

Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0.2, le=1)]


class ControlPlaneSettings(BaseSettings):
    """Everything an operator may set. Defaults are those of one machine."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    listen_host: str = "127.0.0.1"
    """Address the API listens on."""
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Its port; 0 takes a free one."""
    metrics_listen_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A second, internal listener that serves `/metrics` without a credential."""
    public_url: str | None = None
    """Origin that clients are told; without it, that of their own request."""
    postgres_url: SecretStr
    """Where the truth is kept."""
    redis_url: SecretStr
    """Where is kept what may be lost."""
    master_secret: SecretStr
    """64 hexadecimal digits from which the keys at rest are derived; the same on every replica."""
    bootstrap_key: SecretStr
    """API key of the default organisation with both scopes."""
    join_token: SecretStr
    """What workers show with their heartbeats."""
    region: str = "local"
    """Region of creates that name none."""
    blob_store_url: str | None = None
    """Object store of snapshots: `file:///dir`, `s3://…`, `az://…`, `gs://…`. Without it nothing is saved."""
    sandbox_domain: str = "localhost:8080"
    """Domain below which previews of sandboxes are named."""
    replica_id: str | None = None
    """Name of this replica in leases. Each start adds a part of its own, so equal names do no harm."""

    auth_query_key: bool = True
    """Whether `?api_key=` is accepted outside WebSockets."""
    key_cache_s: Seconds = 3
    """How long a replica goes on trusting a key that it has looked up; a revoked key dies within it."""
    fleet_token_ttl_s: PositiveSeconds = 300
    """Life of the tokens by which replicas are known to workers."""

    sandbox_wait_s: PositiveSeconds = 90
    """How long a data-plane call waits for its sandbox."""
    answer_by_s: PositiveSeconds = 25
    """When a create that is not finished is answered as `creating`."""
    creation_queue_s: PositiveSeconds = 30
    """How long a create waits for room before 503 `no_capacity`."""
    create_deadline_s: PositiveSeconds = 300
    """When a create that hangs is given up; of 200 at once the last stands in line on its host for long."""
    save_deadline_s: PositiveSeconds = 900
    """When a hibernation, checkpoint or wake that hangs is given up."""
    exec_pad_after_s: PositiveSeconds = 10
    """When a waiting `exec/run` begins to send spaces, so that readers do not give up."""
    exec_pad_every_s: PositiveSeconds = 10
    """The time between these spaces."""
    sse_keepalive_s: PositiveSeconds = 10
    """Longest silence of a stream of events: a comment keeps its connection alive."""
    exec_timeout_default_s: Annotated[int, Field(ge=1, le=86400)] = 60
    """Time-out of commands that name none."""
    body_bytes_max: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    """Largest JSON body."""
    file_bytes_max: Annotated[int, Field(gt=0)] = 2 * 1024**3
    """Largest file that is taken in."""
    sandbox_token_ttl_s: PositiveSeconds = 86400
    """Life of a sandbox's token; clients do not renew it. One that is given out has 95 % of it to go."""
    signed_url_ttl_s: PositiveSeconds = 3600
    """Life of a signed file URL whose request names none."""
    preview_needs_record: bool = False
    """Whether only ports with a record are shown to the outside."""
    stopped_kept_days: Annotated[int, Field(ge=0)] = 30
    """How long the record of an ended sandbox is kept."""
    events_kept_days: Annotated[int, Field(ge=0)] = 30
    """How long rows of the transition log are kept."""

    memory_default_mb: Annotated[int, Field(gt=0)] = 1024
    """Memory of a sandbox whose create names none."""
    memory_base_mb: Annotated[int, Field(gt=0)] = 512
    """Least memory: that of the template."""
    memory_max_mb: Annotated[int, Field(gt=0)] = 65536
    """Most memory."""
    memory_block_mb: Annotated[int, Field(gt=0)] = 128
    """Memory is rounded up to a multiple of this."""
    disk_default_mb: Annotated[int, Field(gt=0)] = 20480
    """Disk of a sandbox whose create names none."""
    disk_min_mb: Annotated[int, Field(gt=0)] = 20480
    """Least disk."""
    disk_max_mb: Annotated[int, Field(gt=0)] = 262144
    """Most disk."""
    placement_memory_ratio_max: Annotated[float, Field(gt=0)] = 1.0
    """Part of the memory of a worker that may be promised."""
    placement_cpu_ratio_max: Annotated[float, Field(gt=0)] = 100.0
    """vCPUs that may be promised for each one that a worker has."""
    placement_disk_ratio_max: Annotated[float, Field(gt=0)] = 100.0
    """Disk that may be promised for each MiB that a worker has; disks are sparse."""
    placement_memory_used_ratio_max: Annotated[float, Field(gt=0)] | None = None
    """Part of its memory that a worker's host may use and still be given sandboxes; for when more is
    promised than there is."""

    heartbeat_interval_s: PositiveSeconds = 2
    """How often workers report."""
    worker_silent_s: PositiveSeconds = 10
    """After so much silence a worker gets no new sandboxes. Those it has are not touched."""
    worker_unreachable_s: PositiveSeconds = 60
    """After so much silence it is called `unreachable`. Its sandboxes are still not touched."""
    worker_lost_s: PositiveSeconds = 120
    """After so much silence the pool of its machine is asked. If it says that the machine is gone, the worker
    is lost: its sandboxes are recovered, and another takes its place."""
    operation_lease_s: Annotated[float, Field(ge=0.5, le=60)] = 5
    """How long an operation of a dead replica stays unclaimed; renewed three times as often."""
    leader_lease_s: Annotated[float, Field(ge=0.5, le=12)] = 3
    """How long a dead leader stays the leader, and most of what a fail-over takes."""
    loop_interval_s: PositiveSeconds = 1
    """Pause between two rounds of the fleet's loops."""
    move_downtime_ms_max: Annotated[int, Field(ge=1, le=60_000)] = 300
    """How long a sandbox may stand still at the end of a move, where its memory is copied while it runs."""
    move_rounds_max: Annotated[int, Field(ge=2, le=1000)] = 24
    """After so many rounds a memory that is written faster than it is copied stays where it is."""
    move_silent_s_max: PositiveSeconds = 30
    """A move of which no byte has moved for so long is given up. There is no other limit to its time."""
    move_mib_per_s_max: Annotated[int, Field(ge=0)] = 0
    """Most that one move may send in a second; 0 is no limit."""
    move_may_throttle: bool = True
    """Whether a guest may be slowed down so that its writes can be kept up with."""
    move_may_post_copy: bool = False
    """Whether a guest may go on before its memory is there. When either host fails then, it is lost."""
    drain_moves_at_once: Annotated[int, Field(ge=1, le=64)] = 2
    """How many sandboxes leave a worker at a time that is being drained, and how many come to one."""
    autoscale_interval_s: Seconds = 5
    """How often the use of sandboxes is looked at whose memory follows it; 0 looks at none."""
    autoscale_grow_above: Annotated[float, Field(gt=0, le=1)] = 0.8
    """A sandbox grows when it uses more than this share of its memory."""
    autoscale_shrink_below: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """It shrinks when it uses no more than this share of what it would have then, and has for long."""
    autoscale_shrink_after_s: PositiveSeconds = 300
    """How long that is."""
    pools: tuple[PoolSettings, ...] = ()
    """Where machines come from, in the order of preference: tables `[[pools]]`, see below."""
    capacity: CapacitySettings | None = None
    """How many workers there shall be: table `[capacity]`, see below. Without it, those that it is given."""
    rollout: RolloutSettings = RolloutSettings()
    """How a new version comes to the workers that the fleet launches: table `[rollout]`, see below."""
    pressure: bool = True
    """Whether sandboxes leave hosts that are short of real memory, disk or CPU: by moves, then by sleep."""
    pressure_memory_high: Share = 0.92
    """From this share of the host's memory on it is short: it gets nothing new, and sandboxes leave it."""
    pressure_memory_low: Share = 0.85
    """Until this share is left; nobody is given a sandbox for it that would use more."""
    pressure_disk_high: Share = 0.95
    """The same for its disk, of which 200 GiB are counted. 5 points below this it is enough."""
    pressure_cpu: bool = True
    """Whether want of CPU counts. It does not where all workers share one host: no move relieves that."""
    pressure_cpu_high: Share = 0.95
    """The same for its CPU, after two minutes. 15 points below this it is enough. Nobody sleeps for it."""
    fault_points_dir: Path | None = None
    """For tests of crashes only: a directory of orders to die or fail at named points; see docs/faults.md."""
    postgres_pool_max: Annotated[int, Field(ge=2)] = 20
    """Most connections of this replica to PostgreSQL."""

    drain_notice_s: Seconds = 2
    """How long `/readyz` says 503 before the listener closes, so that balancers look away first."""
    drain_max_s: Seconds = 25
    """How long a stopping replica finishes what is in flight."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    @model_validator(mode="after")
    def _memory_can_be_given(self) -> ControlPlaneSettings:
        block, base = self.memory_block_mb, self.memory_base_mb
        if block % MEMORY_BLOCK_MIB:
            raise ValueError(
                f"memory_block_mb is {block}: guests take memory in blocks of {MEMORY_BLOCK_MIB}"
            )
        for name in ("memory_base_mb", "memory_default_mb", "memory_max_mb"):
            value = getattr(self, name)
            if value % block:
                raise ValueError(
                    f"{name} is {value}, no multiple of memory_block_mb ({block}): "
                    f"{value // block * block} and {-(-value // block) * block} are"
                )
        if not base <= self.memory_default_mb <= self.memory_max_mb:
            raise ValueError("memory_base_mb <= memory_default_mb <= memory_max_mb does not hold")
        return self

    @model_validator(mode="after")
    def _use_has_a_middle(self) -> ControlPlaneSettings:
        if self.autoscale_shrink_below >= self.autoscale_grow_above:
            raise ValueError("autoscale_shrink_below < autoscale_grow_above does not hold")
        return self

    @model_validator(mode="after")
    def _machines_can_be_had(self) -> ControlPlaneSettings:
        check_machines(self.pools, self.capacity)
        return self

    @model_validator(mode="after")
    def _pressure_can_be_relieved(self) -> ControlPlaneSettings:
        if not self.pressure_memory_low < self.pressure_memory_high:
            raise ValueError("pressure_memory_low < pressure_memory_high does not hold")
        return self

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
    def absence_policy(self) -> AbsencePolicy:
        """What is said of workers that are not heard of."""
        return AbsencePolicy(unreachable_s=self.worker_unreachable_s, lost_s=self.worker_lost_s)

    @property
    def autoscale_policy(self) -> AutoscalePolicy:
        """When the memory of a sandbox follows its use."""
        return AutoscalePolicy(
            grow_above=self.autoscale_grow_above,
            shrink_below=self.autoscale_shrink_below,
            shrink_after_s=self.autoscale_shrink_after_s,
        )

    @property
    def placement_policy(self) -> PlacementPolicy:
        """How full a worker may become."""
        return PlacementPolicy(
            memory_ratio_max=self.placement_memory_ratio_max,
            cpu_ratio_max=self.placement_cpu_ratio_max,
            disk_ratio_max=self.placement_disk_ratio_max,
            memory_used_ratio_max=self.placement_memory_used_ratio_max,
            host_used_ratio_max=self.pressure_memory_high if self.pressure else None,
        )

    @property
    def pressure_marks(self) -> Mapping[Shortage, Marks]:
        """When a host is short of what."""
        usual = USUAL_MARKS
        disk, cpu = self.pressure_disk_high, self.pressure_cpu_high
        memory = usual[Shortage.MEMORY]
        marks = {
            Shortage.MEMORY: replace(memory, high=self.pressure_memory_high, low=self.pressure_memory_low),
            Shortage.DISK: replace(usual[Shortage.DISK], high=disk, low=disk - 0.05),
        }
        if self.pressure_cpu:
            marks[Shortage.CPU] = replace(usual[Shortage.CPU], high=cpu, low=cpu - 0.15)
        return marks

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
