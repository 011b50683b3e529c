"""Settings of a worker: one typed schema; an unknown or missing key refuses the start."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sandfleet.adapters.metadata.endpoint import USUAL_URL
from sandfleet.model.resources import MEMORY_BLOCK_MIB

_HOST_RESERVE_MIB = 1024
_HOST_RESERVE_SHARE = 0.15
"""Each VM costs its host more than its guest has, and what VMs share is promised to none of them."""
_ADDRESSES_MIN = 32


@dataclass(frozen=True, slots=True)
class HostLimits:
    """The bounds that operations keep, taken out of the settings."""

    memory_budget_mib: int
    disk_default_mib: int = 20480
    clone_concurrency: int = 4
    pids_max: int = 1024
    moves_max: int = 2
    guest_reserve_mib: int = 96
    """Memory of a guest that its kernel and agent keep from the user's processes."""
    exec_timeout_default_s: int = 60
    file_bytes_max: int = 2 * 1024**3
    body_bytes_max: int = 64 * 1024**2


def _memory_budget_default() -> int:
    total_mib = int(psutil.virtual_memory().total // 2**20)
    return max(512, total_mib - max(_HOST_RESERVE_MIB, int(total_mib * _HOST_RESERVE_SHARE)))


class WorkerSettings(BaseSettings):
    """What one worker process is told. Environment (prefix `SANDFLEET_`) overrides the file."""

    model_config = SettingsConfigDict(env_prefix="SANDFLEET_", extra="forbid", frozen=True)

    worker_id: str = Field(pattern=r"^wk-[a-z0-9-]{1,64}$")
    """This worker's id in the fleet, `wk-…`; it never changes."""
    machine_id: str
    """Name of the host."""
    control_url: str
    """Where the control plane (or its load balancer) is."""
    join_token: SecretStr
    """What the control plane knows its workers by."""
    data_dir: Path
    """Where the VMs live: disks, sockets, manifests."""
    worker_version: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]{0,99})?$")
    """Version of the image of this host, by which roll-outs go; empty is the program's own."""
    region: str = "local"
    """Region of this host."""
    listen_host: str = "127.0.0.1"
    """Address the service listens on."""
    listen_port: int = Field(default=7070, ge=0, le=65535)
    """Its port; 0 takes a free one."""
    advertise_url: str = ""
    """Where the control plane reaches this worker; empty means the listening address."""
    images_dir: Path = Path("/var/cache/sandfleet/images")
    """Where guest images are installed."""
    templates_dir: Path = Path("/var/cache/sandfleet/templates")
    """Where templates made from them are kept."""
    memory_budget_mib: int = Field(default_factory=_memory_budget_default, ge=512)
    """Memory that may be promised to sandboxes: by default what the host has, less a reserve."""
    cpu_budget: int = Field(default_factory=lambda: (os.cpu_count() or 1) * 4, ge=1)
    """vCPUs reported to the control plane: by default four for each CPU."""
    disk_budget_mib: int = Field(default=1024 * 1024, ge=20480)
    """Disk reported to the control plane."""
    blob_store_url: str = ""
    """Where snapshots become durable: file://, s3://, az:// or gs://; empty is a directory beside `data_dir`.

    Credentials come from the environment, as each store's own tools read them.
    """
    migration_address: str = ""
    """Private address at which VMs of other workers are received; empty is that of the service."""
    moves_max: int = Field(default=2, ge=1, le=64)
    """How many VMs come here by live migration at a time, and how many leave."""
    network_range: str = "10.210.0.0/16"
    """Where the addresses of sandboxes towards the host come from; no two workers of a host share it."""
    warm_pool_size: int = Field(default=4, ge=0, le=256)
    """How many VMs stand ready."""
    warm_pool_concurrency: int = Field(default=1, ge=1, le=8)
    """How many of them are made at a time."""
    warm_pool_template: str = "base"
    """What they are made from."""
    clone_concurrency: int = Field(default_factory=lambda: max(2, os.cpu_count() or 1), ge=1)
    """How many VMs are started at a time when somebody waits: by default one for each CPU, at least 2."""
    memory_default_mib: int = Field(default=1024, ge=128)
    """Size of the VMs that stand ready, and of their template; the server's `memory_default_mb`."""
    memory_base_mib: int = Field(default=512, ge=128)
    """Least memory: that of the template of smaller VMs; the server's `memory_base_mb`."""
    memory_max_mib: int = Field(default=65536, ge=128)
    """Most memory of one VM; the server's `memory_max_mb`."""
    disk_default_mib: int = Field(default=20480, ge=1024)
    """Disk of the VMs that stand ready; the server's `disk_default_mb`."""
    guest_mitigations: bool = False
    """Whether guest kernels guard against CPU speculation; decision 0007 says what for and what it costs."""
    pids_max: int = Field(default=1024, ge=16)
    """Most processes of a user in one sandbox."""
    exec_timeout_default_s: int = Field(default=60, ge=1, le=86400)
    """Time-out of commands that name none."""
    uid_first: int = Field(default=200_000, ge=1000)
    """First of the host users that VMs run as, one each; no two workers of a host share them."""
    notice_file: Path | None = None
    """A file whose presence says that the host is about to be taken away; it may say when and why."""
    notice_source: Literal["none", "ec2", "azure"] = "none"
    """Whose metadata endpoint is asked besides whether the host is about to be taken away."""
    notice_url: str = USUAL_URL
    """Where that endpoint is."""
    notice_interval_s: float = Field(default=5.0, ge=0.1, le=60)
    """How often it is asked; less often while it does not answer."""
    heartbeat_interval_s: float = Field(default=2.0, gt=0, le=60)
    """How often it reports until the control plane says otherwise."""
    stop_grace_s: float = Field(default=10.0, ge=0, le=300)
    """How long a stopping worker finishes calls in flight. VMs run on in any case."""
    fault_points_dir: Path | None = None
    """For tests of crashes only: a directory of orders to die or fail at named points; see docs/faults.md."""
    log_file: Path | None = None
    """Where the log goes instead of standard output."""

    @model_validator(mode="after")
    def _is_reachable(self) -> WorkerSettings:
        if self.listen_host in ("0.0.0.0", "::") and not self.advertise_url:
            raise ValueError("advertise_url is needed when listen_host is every address")
        return self

    @field_validator("memory_default_mib", "memory_base_mib", "memory_max_mib")
    @classmethod
    def _is_whole_blocks(cls, value: int) -> int:
        if value % MEMORY_BLOCK_MIB:
            raise ValueError(f"{value} is not a multiple of {MEMORY_BLOCK_MIB} MiB")
        return value

    @field_validator("network_range")
    @classmethod
    def _is_network(cls, value: str) -> str:
        if IPv4Network(value).num_addresses < _ADDRESSES_MIN:
            raise ValueError(f"{value} has fewer than {_ADDRESSES_MIN} addresses")
        return value

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> WorkerSettings:
        if not self.memory_base_mib <= self.memory_default_mib <= self.memory_max_mib:
            raise ValueError("memory_base_mib <= memory_default_mib <= memory_max_mib does not hold")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then what was passed in (the file's content), then defaults."""
        return env_settings, init_settings

    def limits(self) -> HostLimits:
        """Return the bounds that operations keep."""
        return HostLimits(
            memory_budget_mib=self.memory_budget_mib,
            disk_default_mib=self.disk_default_mib,
            clone_concurrency=self.clone_concurrency,
            pids_max=self.pids_max,
            moves_max=self.moves_max,
            exec_timeout_default_s=self.exec_timeout_default_s,
        )

    def store_url(self) -> str:
        """Return the URL of the object store."""
        return self.blob_store_url or (self.data_dir.resolve().parent / "store").as_uri()

    def landing_address(self) -> str:
        """Return the address at which VMs of other workers are received."""
        return self.migration_address or urlsplit(self.advertise_url).hostname or self.listen_host

    def redacted(self) -> dict[str, Any]:
        """Return the effective settings as they may be logged."""
        return self.model_dump(mode="json")


def load_settings(path: Path | None) -> WorkerSettings:
    """Read the TOML file, if one is named, under the environment's overrides."""
    given: dict[str, Any] = {}
    if path is not None:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    return WorkerSettings(**given)
