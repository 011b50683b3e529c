"""What a fleet holds on this host and in its database: counted before and after, so that leaks show.

The ids of a fleet's machines begin with a tag made from its worker's directory; namespaces, links, cgroups
and directories carry the id. So nothing of another fleet on the same host is ever counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import psutil
from tests.acceptance.live_fleet import LiveFleet

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.pieces import chunk_name
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu.config import HypervisorConfig
from sandfleet.wire.snapshot_manifest import FileDigest

_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Census:
    """One count. Sets name what is there, so that a failing comparison says what was left behind."""

    machines: frozenset[str]
    qemus: frozenset[str]
    namespaces: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    reservations: frozenset[str]
    open_operations: frozenset[str]
    living: frozenset[str]


def take_census(fleet: LiveFleet) -> Census:
    """Count everything now."""
    engines = _engines(fleet)
    return Census(
        machines=frozenset(name for engine in engines for name in os.listdir(engine.machines_dir)),
        qemus=frozenset(qemu_processes(fleet)),
        namespaces=_tagged(_namespaces(), "sf-", engines),
        links=_tagged(os.listdir("/sys/class/net"), "sf", engines),
        cgroups=_tagged(_cgroups(), "", engines),
        **{name: rows(fleet, query) for name, query in _QUERIES.items()},
    )


def leaks(before: Census, after: Census, fleet: LiveFleet) -> dict[str, list[str]]:
    """Return what stands in `after` and should not: new rows, machines of nobody, parts of machines."""
    found = {
        "reservations": after.reservations - before.reservations,
        "operations": after.open_operations - before.open_operations,
        "sandboxes": after.living - before.living,
        "machines of nobody": _ownerless(after, fleet),
        "machines without QEMU": after.machines - after.qemus,
        "QEMUs without machine": after.qemus - after.machines,
        "namespaces": {name.removeprefix("sf-") for name in after.namespaces} - after.machines,
        "links": {name.removeprefix("sf") for name in after.links} - after.machines,
        "cgroups": after.cgroups - after.machines,
    }
    return {kind: sorted(names) for kind, names in found.items() if names}


def wait_for_no_leak(
    before: Census, fleet: LiveFleet, *, timeout_s: float = 90.0, but: str = "no sandbox"
) -> None:
    """Return when everything that was made since `before` is gone again; fail and name it otherwise.

    `but` is a sandbox that lives on, in whatever state, on one machine at most.
    """
    deadline = time.monotonic() + timeout_s
    while remains := _remains(before, fleet, but=but):
        assert time.monotonic() < deadline, f"left behind after {timeout_s:.0f} s: {json.dumps(remains)}"
        time.sleep(0.5)


def _remains(before: Census, fleet: LiveFleet, *, but: str) -> dict[str, list[str]]:
    after = take_census(fleet)
    found = leaks(before, after, fleet)
    for kind in ("reservations", "sandboxes"):
        found[kind] = [row for row in found.get(kind, []) if but not in row]
    owned = [machine for machine, owner in _owners(fleet).items() if owner == but]
    found["machines of one sandbox"] = owned if len(owned) > 1 else []
    return {kind: names for kind, names in found.items() if names}


def qemu_processes(fleet: LiveFleet) -> dict[str, psutil.Process]:
    """Return the QEMU processes of this fleet by the machine they are named after."""
    tags = "|".join(engine.tag for engine in _engines(fleet))
    named = re.compile(rf"\b(?:{tags})[a-z0-9]{{8}}\b")
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith("qemu-system"):
            for machine_id in named.findall(" ".join(_command(process)))[:1]:
                found[machine_id] = process
    return found


def leftovers_of_snapshots(fleet: LiveFleet) -> list[str]:
    """Return what is left of snapshots that no row names: on the workers' disks and in the object store."""
    kept = rows(fleet, "SELECT id FROM snapshots WHERE state <> 'garbage'")
    local = [Path(data_dir) / "snapshots" for data_dir in fleet.settings("data_dir")]
    stored = Path(fleet.setting("blob_store_url").removeprefix("file://"))
    names = [path.name for directory in local if directory.is_dir() for path in directory.iterdir()]
    # Uploads that died have announced themselves, and would keep the sweep from their pieces for ever.
    places = [stored / "snapshots", stored / "uploads"]
    published = [path.stem for place in places if place.is_dir() for path in place.iterdir()]
    return sorted({*names, *published} - kept)


def pieces_of_nobody(fleet: LiveFleet) -> list[str]:
    """Sweep the object store as a server does each hour, whatever the age, and return what is there
    afterwards and should not be, and what should be and is not.

    Only while nothing is being stored: what is young is spared otherwise.
    """
    url = fleet.setting("blob_store_url")
    kept = rows(fleet, "SELECT id FROM snapshots WHERE state <> 'garbage'")
    return list(in_own_loop(_swept(url, kept)))


async def _swept(url: str, kept: frozenset[str]) -> list[str]:
    objects = Objects.open(url)
    try:
        store = ObjectSnapshotStore(objects, clock=SystemClock())
        await store.sweep(keep=kept, older_than_s=0)
        needed: set[str] = set()
        async for item in objects.list("snapshots"):
            manifest = await store.manifest(Path(item.name).stem)
            files = list(manifest.files.values())
            for digest in manifest.backings.values():
                needed.add(f"bases/{digest}.json")
                files.append(msgspec.json.decode(await objects.get(f"bases/{digest}.json"), type=FileDigest))
            needed |= {chunk_name(digest) for file in files for digest in file.chunks.values()}
        there = {item.name for prefix in ("bases", "chunks") async for item in objects.list(prefix)}
    finally:
        objects.close()
    return sorted(there ^ needed)


def machine_of(fleet: LiveFleet, machine: str) -> str | None:
    """Return the sandbox that a machine belongs to."""
    return _owners(fleet).get(machine)


def machines_of(fleet: LiveFleet, sandbox_id: str) -> frozenset[str]:
    """Return the machines of a sandbox: two while it moves."""
    return frozenset(
        machine for machine, manifest in _manifests(fleet).items() if manifest["owner"] == sandbox_id
    )


def _engines(fleet: LiveFleet) -> list[HypervisorConfig]:
    """Return the engine of each worker."""
    return [
        HypervisorConfig(data_dir=Path(data_dir), templates_dir=Path("/nowhere"))
        for data_dir in fleet.settings("data_dir")
    ]


def _tagged(names: Iterable[str], prefix: str, engines: list[HypervisorConfig]) -> frozenset[str]:
    tags = tuple(prefix + engine.tag for engine in engines)
    return frozenset(name for name in names if name.startswith(tags))


def in_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` to its end whether or not the caller itself runs inside an event loop."""
    answer: list[Any] = []
    runner = threading.Thread(target=lambda: answer.append(asyncio.run(work)))
    runner.start()
    runner.join()
    assert answer, "the database could not be read"
    return answer[0]


def worker_memory_mib(fleet: LiveFleet) -> int:
    """Return what the fleet's one worker has to promise."""
    (total,) = rows(fleet, "SELECT total_memory_mib FROM workers")
    return int(total)


def rows(fleet: LiveFleet, query: str) -> frozenset[Any]:
    """Return the first column of a query's rows."""
    return frozenset(in_own_loop(_fetch(fleet.setting("postgres_url"), query)))


async def _fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


_QUERIES = {
    "reservations": "SELECT sandbox_id FROM reservations",
    "open_operations": (
        "SELECT kind || ' ' || sandbox_id || ' at ' || step FROM operations WHERE state = 'running'"
    ),
    "living": "SELECT id || ' ' || state FROM sandboxes WHERE state NOT IN ('stopped', 'failed', 'error')",
}


def _ownerless(after: Census, fleet: LiveFleet) -> set[str]:
    """Name machines of sandboxes that do not live, and free ones beyond the size of the warm pool."""
    owners = _owners(fleet)
    living = {row.split()[0] for row in after.living}
    orphans = {machine for machine, owner in owners.items() if owner is not None and owner not in living}
    return orphans | {machine for surplus in _surplus(fleet, owners) for machine in surplus}


def _surplus(fleet: LiveFleet, owners: dict[str, str | None]) -> Iterable[list[str]]:
    """Give each worker's free machines beyond the size of its warm pool."""
    sizes = fleet.settings("warm_pool_size")
    for engine, size in zip(_engines(fleet), sizes, strict=True):
        free = (name for name, owner in owners.items() if owner is None and name.startswith(engine.tag))
        yield sorted(free)[int(size) :]


def _owners(fleet: LiveFleet) -> dict[str, str | None]:
    return {machine: manifest["owner"] for machine, manifest in _manifests(fleet).items()}


def _manifests(fleet: LiveFleet) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for engine in _engines(fleet):
        for machine in os.listdir(engine.machines_dir):
            with suppress(FileNotFoundError):  # removed while we looked
                found[machine] = json.loads((engine.machines_dir / machine / "manifest.json").read_text())
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _cgroups() -> list[str]:
    """Return the cgroups of all fleets' machines. `walk` minds none that vanishes meanwhile."""
    found: list[str] = []
    for place, names, _ in os.walk(_CGROUP_ROOT):
        if os.path.basename(place) == "sandfleet":
            found += names
            names.clear()
    return found


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]
