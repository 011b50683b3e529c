"""The settings files that `up` writes: the same that an operator writes for production."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandfleet.local import machine
from sandfleet.local.configuration import FleetConfiguration, FleetSecrets, WorkerChoice
from sandfleet.local.image import images_dir, templates_dir
from sandfleet.local.layout import Layout
from sandfleet.local.places import WORKERS_MAX, network_range, uid_first
from sandfleet.local.ports import LOOPBACK

SettingValue = str | int | float | bool
TomlValue = SettingValue | Sequence["TomlValue"] | Mapping[str, "TomlValue"]
_MEMORY_MIB_MAX = 65536
_MEMORY_MIB_DEFAULT = 1024
_DRAIN_NOTICE_S = 2
_DISK_MIB = 1024 * 1024
_BOOT_S = 20.0
_LAUNCH_PAUSE_S_MAX = 10.0
_LAUNCH_S_MAX = 300.0
_BLOCK_MIB = 128
"""Guest memory comes in blocks: the largest size must be a multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the stores are."""

    postgres_url: str
    redis_url: str


def as_toml(settings: Mapping[str, TomlValue]) -> str:
    """Return settings as TOML, a line for each (a JSON string is a valid TOML basic string)."""
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in settings.items())


def _toml_value(value: TomlValue) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml_value(one) for one in value) + "]"
    return json.dumps(value)


def server_settings(
    configuration: FleetConfiguration,
    secrets: FleetSecrets,
    stores: Stores,
    *,
    layout: Layout,
    number: int = 0,
) -> dict[str, SettingValue]:
    """Return the settings of one of the fleet's servers, counted from 0."""
    is_balanced = configuration.is_balanced
    largest_mib = _largest_mib(configuration.share_mib)
    return {
        "listen_host": LOOPBACK if is_balanced else configuration.api_host,
        "listen_port": configuration.server_ports[number] if is_balanced else configuration.api_port,
        "postgres_url": stores.postgres_url,
        "redis_url": stores.redis_url,
        "master_secret": secrets.master_secret,
        "bootstrap_key": secrets.bootstrap_key,
        "join_token": secrets.join_token,
        "sandbox_domain": f"localhost:{configuration.api_port}",
        "replica_id": f"server-{number + 1}",
        # Only a load balancer has to be told before the listener closes.
        "drain_notice_s": _DRAIN_NOTICE_S if is_balanced else 0,
        "blob_store_url": layout.snapshots.as_uri(),
        "memory_default_mb": min(_MEMORY_MIB_DEFAULT, largest_mib),
        "memory_max_mb": largest_mib,
        "pressure_cpu": False,  # its workers share this machine: no move relieves it
    }


def worker_settings(
    configuration: FleetConfiguration,
    choice: WorkerChoice,
    secrets: FleetSecrets,
    *,
    layout: Layout,
    share_mib: int | None = None,
) -> dict[str, SettingValue]:
    """Return the settings of one worker; without a share of its own it has an equal part of the memory."""
    share_mib = share_mib or configuration.share_mib
    return {
        "worker_id": choice.id,
        "machine_id": choice.id,
        "listen_port": choice.port,
        "control_url": f"http://{LOOPBACK}:{configuration.api_port}",
        "join_token": secrets.join_token,
        "data_dir": str(layout.worker_data(choice.id)),
        "blob_store_url": layout.snapshots.as_uri(),
        "memory_budget_mib": share_mib,
        "memory_default_mib": min(_MEMORY_MIB_DEFAULT, _largest_mib(share_mib)),
        "memory_max_mib": _largest_mib(share_mib),
        "warm_pool_size": machine.warm_pool_size(share_mib),
        "network_range": str(network_range(configuration.range_number, choice.slot)),
        "uid_first": uid_first(configuration.range_number, choice.slot),
        "images_dir": str(images_dir()),
        "templates_dir": str(templates_dir()),
    }


def machine_settings(configuration: FleetConfiguration, layout: Layout) -> dict[str, TomlValue]:
    """Return what servers are told of the workers that the fleet may have here by itself."""
    kept, most = len(configuration.workers), configuration.workers_max
    if most is None:
        return {}
    calm_s = configuration.calm_s
    size: dict[str, TomlValue] = {
        "name": "worker",
        "memory_mib": configuration.share_mib,
        "cpu_count": machine.cpu_budget(),
        "disk_mib": _DISK_MIB,
        "boot_s": _BOOT_S,
    }
    pool: dict[str, TomlValue] = {
        "kind": "local",
        "directory": str(layout.machines),
        "machines_max": WORKERS_MAX,
        "memory_max_mib": configuration.memory_budget_mib,
        "sizes": [size],
    }
    capacity: dict[str, TomlValue] = {
        "workers_min": kept,
        "workers_max": max(kept, most),
        "idle_reserve": configuration.idle_reserve,
        # One choice says how patient the fleet is; these follow it.
        "calm_s": calm_s,
        "age_s_min": calm_s,
        "trend_s": calm_s / 2,
        "drain_pause_s": calm_s / 5,
        "launch_pause_s": min(_LAUNCH_PAUSE_S_MAX, calm_s / 5),
        "launch_s_max": _LAUNCH_S_MAX,
        # A worker that holds all there is saves no larger share than it disturbs, and may go all the same.
        "worth_min": 1.0,
        "returned_pause_s": 3 * calm_s,
    }
    return {"pools": [pool], "capacity": capacity, "rollout": {"canary_s": calm_s / 5}}


def _largest_mib(budget_mib: int) -> int:
    return min(_MEMORY_MIB_MAX, budget_mib) // _BLOCK_MIB * _BLOCK_MIB
