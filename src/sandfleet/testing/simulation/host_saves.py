"""What a host does with saved states: save, capture, upload, drop; and with sizes and restarts."""

from __future__ import annotations

import asyncio

from sandfleet.model.errors import (
    BlobsUnavailable,
    Conflict,
    Gone,
    GuestUnresponsive,
    NoCapacity,
    NotFound,
    SnapshotUnusable,
    StaleEpoch,
)
from sandfleet.model.ids import SandboxId
from sandfleet.testing.fake_snapshots import SIZE_BYTES, a_saved_vm
from sandfleet.testing.simulation.guest_use import KEPT_MIB
from sandfleet.testing.simulation.host import Host, settled
from sandfleet.testing.simulation.vm import DEAD, RUNNING, SAVING, STARTING, Artefact, Vm
from sandfleet.wire.worker_messages import (
    CaptureVm,
    ResizedVm,
    ResizeVm,
    RestartVm,
    SavedVm,
    SaveVm,
    SnapshotDropped,
    SnapshotState,
    VmStatus,
)

REFUSED_SHARE = 0.05
UPLOAD_TRIES = 3


class Saves:
    """The verbs of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        host.fetch = self.fetch
        host.begin_upload = self.begin_upload

    async def fetch(self, snapshot_id: str) -> Artefact:
        """Bring it from the object store."""
        await asyncio.sleep(0.2 * self.host.dice.random())
        if self.host.store.is_down:
            raise BlobsUnavailable("the object store does not answer")
        found = self.host.store.published.get(snapshot_id)
        if found is None:
            raise SnapshotUnusable(f"snapshot {snapshot_id} is neither here nor in the object store")
        return found

    async def save(self, sandbox_id: SandboxId, order: SaveVm) -> SavedVm:
        """Save and end it; the same id is one save."""
        host = self.host
        host.require_adopted()
        host.require_term(order.term)
        vm = host.vms.get(sandbox_id)
        if vm is not None and vm.saving is not None and vm.saving_to == order.snapshot_id:
            return await self._joined(vm)
        done = host.saved.get(order.snapshot_id)
        if done is not None:
            if vm is not None and vm.epoch == order.epoch:
                await host.end(vm)
            return done.saved
        if vm is None:
            raise NotFound(f"sandbox {sandbox_id} is not on this worker")
        if vm.epoch != order.epoch:
            raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {vm.epoch}, not {order.epoch}")
        if order.snapshot_id in vm.refused:
            raise GuestUnresponsive("agent unresponsive: this save was refused")
        self._require_free(vm, order)
        vm.state, vm.saving_to = SAVING, order.snapshot_id
        vm.saving = host.task(self._save(vm, order.snapshot_id), name=f"save {sandbox_id}")
        return await self._joined(vm)

    def _require_free(self, vm: Vm, order: SaveVm) -> None:
        """Raise `busy`, which stays, unless it may be saved now."""
        try:
            if vm.state != RUNNING or vm.successor is not None:
                raise Conflict(f"sandbox {vm.sandbox_id} is {vm.state}", code="busy")
            if order.idle_since_s is not None:
                self.host.require_idle(vm, order.idle_since_s)
        except Conflict:
            vm.refused.add(order.snapshot_id)
            raise

    async def _joined(self, vm: Vm) -> SavedVm:
        assert vm.saving is not None
        task = vm.saving
        await settled(task)
        result: SavedVm = task.result()
        return result

    async def _save(self, vm: Vm, snapshot_id: str) -> SavedVm:
        host = self.host
        await asyncio.sleep(0.05 + host.dice.random() ** 2)
        if host.dice.random() < REFUSED_SHARE:
            self._reopen(vm)
            vm.refused.add(snapshot_id)
            raise GuestUnresponsive("agent unresponsive: no answer")
        host.saved[snapshot_id] = self._artefact(vm, snapshot_id)
        await asyncio.sleep(0.05 * host.dice.random())
        host.bury(vm.sandbox_id, vm.epoch)
        host.remove(vm)
        host.watcher.noted(host, f"saved {vm.sandbox_id} to {snapshot_id} with {vm.written} writes")
        return host.saved[snapshot_id].saved

    def _reopen(self, vm: Vm) -> None:
        vm.saving, vm.saving_to = None, ""
        if vm.state == SAVING:
            self.host.run(vm)

    def _artefact(self, vm: Vm, snapshot_id: str) -> Artefact:
        return Artefact(a_saved_vm(snapshot_id, self.host.status(vm)), vm.written)

    async def capture(self, sandbox_id: SandboxId, order: CaptureVm) -> SavedVm:
        """Save it while it runs on; the same id is one capture."""
        host = self.host
        host.require_adopted()
        host.require_term(order.term)
        if order.snapshot_id in host.saved:
            return host.saved[order.snapshot_id].saved
        vm = host.serving(sandbox_id, order.epoch)
        host.require_open(vm)
        task = host.captures.get(order.snapshot_id)
        if task is None:
            task = host.task(self._capture(vm, order.snapshot_id), name=f"capture {sandbox_id}")
            host.captures[order.snapshot_id] = task
        await settled(task)
        result: SavedVm = task.result()
        return result

    async def _capture(self, vm: Vm, snapshot_id: str) -> SavedVm:
        host = self.host
        try:
            artefact = self._artefact(vm, snapshot_id)
            await asyncio.sleep(0.05 + 0.3 * host.dice.random())
            if host.vms.get(vm.sandbox_id) is not vm or vm.state != RUNNING:
                raise Gone("it ended while it was captured")
            host.saved[snapshot_id] = artefact
            return artefact.saved
        finally:
            host.captures.pop(snapshot_id, None)

    async def upload(self, snapshot_id: str, term: int) -> SnapshotState:
        """Begin the upload; return how it stands now."""
        self.host.require_adopted()
        self.host.require_term(term)
        if snapshot_id not in self.host.saved:
            raise NotFound(f"no local copy of {snapshot_id}")
        self.begin_upload(snapshot_id)
        return self.state(snapshot_id)

    def begin_upload(self, snapshot_id: str) -> None:
        """Upload it in the worker's own context, unless that is done or under way."""
        host = self.host
        running = host.uploads.get(snapshot_id)
        if snapshot_id in host.store.published or (running is not None and not running.done()):
            return
        host.wanted[snapshot_id] = None
        host.upload_failures.pop(snapshot_id, None)
        host.uploads[snapshot_id] = host.task(self._upload(snapshot_id), name=f"upload {snapshot_id}")

    async def _upload(self, snapshot_id: str) -> None:
        host = self.host
        for _ in range(UPLOAD_TRIES):
            await asyncio.sleep(0.1 + host.dice.random())
            if snapshot_id not in host.saved:
                return
            if not host.store.is_down:
                host.store.published[snapshot_id] = host.saved[snapshot_id]
                host.wanted.pop(snapshot_id, None)
                host.watcher.noted(host, f"uploaded {snapshot_id}")
                return
            host.upload_failures[snapshot_id] = "the object store does not answer"

    def state(self, snapshot_id: str) -> SnapshotState:
        """Return how a local copy stands."""
        host = self.host
        task = host.uploads.get(snapshot_id)
        word = "local"
        if snapshot_id in host.store.published and snapshot_id not in host.wanted:
            word = "durable"
        elif task is not None and not task.done():
            word = "uploading"
        elif snapshot_id in host.upload_failures:
            word = "failed"
        reason = host.upload_failures.get(snapshot_id) if word == "failed" else None
        return SnapshotState(snapshot_id=snapshot_id, state=word, size_bytes=SIZE_BYTES, reason=reason)

    async def drop(self, snapshot_id: str, term: int) -> SnapshotDropped:
        """Have no local copy."""
        host = self.host
        host.require_adopted()
        host.require_term(term)
        task = host.uploads.pop(snapshot_id, None)
        if task is not None:
            task.cancel()
            await settled(task)
        host.wanted.pop(snapshot_id, None)
        existed = host.saved.pop(snapshot_id, None) is not None
        return SnapshotDropped(snapshot_id=snapshot_id, existed=existed)

    async def snapshots(self) -> list[SnapshotState]:
        """Return every local copy."""
        self.host.require_adopted()
        return [self.state(snapshot_id) for snapshot_id in self.host.saved]

    async def resize(self, sandbox_id: SandboxId, order: ResizeVm) -> ResizedVm:
        """Have that size."""
        host = self.host
        host.require_adopted()
        host.require_term(order.term)
        vm = host.serving(sandbox_id, order.epoch)
        async with vm.resizing:
            with vm.sizes.carrying_out(order.sequence):
                await self._resize(vm, order)
        return ResizedVm(memory_mib=order.memory_mib, cpu_percent=order.cpu_percent)

    async def _resize(self, vm: Vm, order: ResizeVm) -> None:
        host = self.host
        host.require_open(vm)
        await asyncio.sleep(0.02 + 0.2 * host.dice.random())
        if host.vms.get(vm.sandbox_id) is not vm or vm.state != RUNNING:
            raise Gone("it ended while it was resized")
        if host.committed_mib - vm.memory_mib + order.memory_mib > host.total.memory_mib:
            raise NoCapacity(f"short of {order.memory_mib} MiB")
        is_too_small = order.memory_mib < min(vm.memory_mib, host.used_mib(vm.sandbox_id) + KEPT_MIB)
        if host.dice.random() < REFUSED_SHARE or is_too_small:
            raise Conflict("the guest uses more", code="oom_floor")
        vm.memory_mib = order.memory_mib
        host.watcher.noted(host, f"resized {vm.sandbox_id} to {order.memory_mib} MiB")

    async def restart(self, sandbox_id: SandboxId, order: RestartVm) -> VmStatus:
        """Boot it anew, once for each restart id."""
        host = self.host
        host.require_adopted()
        host.require_term(order.term)
        vm = host.vms.get(sandbox_id)
        if vm is None:
            raise NotFound(f"sandbox {sandbox_id} is not on this worker")
        if vm.epoch != order.epoch:
            raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {vm.epoch}")
        if vm.restarted != order.restart_id:
            if vm.state not in (RUNNING, DEAD):
                raise Conflict(f"sandbox {sandbox_id} is {vm.state}", code="busy")
            vm.state, vm.restarted = STARTING, order.restart_id
            vm.starting = host.task(self._restart(vm), name=f"restart {sandbox_id}")
        if vm.starting is not None:
            await settled(vm.starting)
        if vm.state != RUNNING:
            raise Gone(f"sandbox {sandbox_id} is {vm.state}")
        return host.status(vm)

    async def _restart(self, vm: Vm) -> None:
        await asyncio.sleep(0.2 + self.host.dice.random())
        if vm.state == STARTING:
            self.host.run(vm)
