"""The settings files that `up` writes: the same that an operator writes for production."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sandfleet.local import machine
from sandfleet.local.configuration import (
    FIRST_RANGE,
    WORKERS_MAX,
    FleetConfiguration,
    FleetSecrets,
    WorkerChoice,
)
from sandfleet.local.image import images_dir, templates_dir
from sandfleet.local.layout import Layout
from sandfleet.local.ports import LOOPBACK

SettingValue = str | int | float | bool
_FIRST_UID = 200_000
_UIDS_PER_RANGE = 10_000
_MEMORY_MIB_MAX = 65536
_MEMORY_MIB_DEFAULT = 1024
_DRAIN_NOTICE_S = 2
_BLOCK_MIB = 128
"""Guest memory comes in blocks: the largest size must be a multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the stores are."""

    postgres_url: str
    redis_url: str


def as_toml(settings: Mapping[str, SettingValue]) -> str:
    """Return flat settings as TOML (a JSON string is a valid TOML basic string)."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


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
    largest_mib = _largest_mib(configuration.memory_budget_mib // len(configuration.workers))
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
    share_mib = share_mib or configuration.memory_budget_mib // len(configuration.workers)
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
        "network_range": _network_range(configuration, choice.slot),
        "uid_first": _FIRST_UID
        + configuration.range_number * _UIDS_PER_RANGE
        + choice.slot * (_UIDS_PER_RANGE // WORKERS_MAX),
        "images_dir": str(images_dir()),
        "templates_dir": str(templates_dir()),
    }


def _largest_mib(budget_mib: int) -> int:
    return min(_MEMORY_MIB_MAX, budget_mib) // _BLOCK_MIB * _BLOCK_MIB


def _network_range(configuration: FleetConfiguration, slot: int) -> str:
    # One /16 per fleet, of which each worker has a fixed part.
    bits = (WORKERS_MAX - 1).bit_length()
    start = slot << (16 - bits)
    return f"10.{FIRST_RANGE + configuration.range_number}.{start >> 8}.0/{16 + bits}"
