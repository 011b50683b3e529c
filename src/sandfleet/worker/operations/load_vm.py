"""Load: a running machine of a snapshot, for the sandbox it belongs to or for a fork of it.

The local copy is used if it is the one that was published and whole; otherwise the store's is
fetched. There is no third way: what cannot be loaded is refused, and nothing is removed for it.
A fork that cannot be given an identity of its own is destroyed before anybody reached it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from sandfleet.model.errors import NotFound, SnapshotUnusable
from sandfleet.ports.blobs import StoredFiles
from sandfleet.ports.hypervisor import Machine
from sandfleet.ports.snapshots import SavedSnapshot
from sandfleet.wire.snapshot_manifest import SnapshotManifest
from sandfleet.wire.worker_messages import SnapshotSource, StartVm
from sandfleet.worker.host import Host
from sandfleet.worker.operations.outfit import fit, identity, shape
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")


async def load_vm(host: Host, resident: Resident, order: StartVm) -> Machine:
    """Return the machine with its own identity, clock and sizes; a failure leaves nothing behind."""
    assert order.snapshot is not None
    source = order.snapshot
    async with AsyncExitStack() as undo:
        machine = await _load(host, resident, source)
        undo.push_async_callback(machine.destroy)
        await host.faults.at("start.loaded")
        if order.network_enabled != machine.facts.order.network_enabled:
            await machine.set_network(enabled=order.network_enabled)
        await machine.guest.assume_identity(
            identity(host, resident.sandbox_id, order.envs, renew=source.is_fork)
        )
        await fit(machine, order)
        await shape(host, machine)
        await host.faults.at("start.sized")
        undo.pop_all()
    return machine


async def _load(host: Host, resident: Resident, source: SnapshotSource) -> Machine:
    snapshots = host.require_snapshots()
    local = _usable_local(host, source)
    if local is not None:
        try:
            return await _from(host, resident, source, local)
        except SnapshotUnusable as error:
            log.warning("local_snapshot_unusable", snapshot=source.snapshot_id, reason=error.message)
            if not await _is_stored(host, source.snapshot_id):
                raise
            await snapshots.drop(source.snapshot_id)
    return await _from(host, resident, source, await _fetch(host, source))


async def _from(host: Host, resident: Resident, source: SnapshotSource, copy: SavedSnapshot) -> Machine:
    return await host.require_snapshots().load(
        copy.directory, owner=resident.sandbox_id, epoch=resident.epoch, is_fork=source.is_fork
    )


def _usable_local(host: Host, source: SnapshotSource) -> SavedSnapshot | None:
    """Return the local copy, if it is the snapshot that was published under this name."""
    try:
        found = host.require_snapshots().find(source.snapshot_id)
    except SnapshotUnusable as error:
        log.warning("local_snapshot_unusable", snapshot=source.snapshot_id, reason=error.message)
        return None
    if found is not None and source.manifest is not None:
        require_same(found.manifest, source.manifest)
    return found


def require_same(found: SnapshotManifest, published: SnapshotManifest) -> None:
    """Raise `SnapshotUnusable` unless both name the same bytes."""
    digests = [
        {name: file.digest for name, file in manifest.files.items()} | manifest.backings
        for manifest in (found, published)
    ]
    if digests[0] != digests[1]:
        raise SnapshotUnusable(
            f"the copy of snapshot {published.snapshot_id} is not the one that was published"
        )


async def _is_stored(host: Host, snapshot_id: str) -> bool:
    if host.store is None:
        return False
    try:
        await host.store.manifest(snapshot_id)
    except (NotFound, SnapshotUnusable):
        return False
    return True


async def _fetch(host: Host, source: SnapshotSource) -> SavedSnapshot:
    store = host.require_store()
    try:
        manifest = await store.manifest(source.snapshot_id)
    except NotFound as error:
        raise SnapshotUnusable(
            f"snapshot {source.snapshot_id} is neither on this worker nor in the object store"
        ) from error
    if source.manifest is not None:
        require_same(manifest, source.manifest)

    async def fetch(files: StoredFiles) -> None:
        await store.fetch(manifest, files, progress=lambda _done, _total: None)

    began_s = host.clock.monotonic()
    fetched = await host.require_snapshots().receive(manifest, fetch)
    log.info(
        "snapshot_fetched",
        snapshot=source.snapshot_id,
        size_bytes=fetched.size_bytes,
        took_s=round(host.clock.monotonic() - began_s, 3),
    )
    return fetched
