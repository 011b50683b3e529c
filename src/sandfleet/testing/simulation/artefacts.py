"""The object store as a replica unpublishes and sweeps it (port: `ports.blobs.SnapshotStore`, that part)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from sandfleet.model.errors import BlobsUnavailable, NotFound
from sandfleet.ports.blobs import Progress, StoredFiles
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.network import Network, Weather
from sandfleet.testing.simulation.vm import ObjectStore
from sandfleet.wire.snapshot_manifest import SnapshotManifest


class SimulatedSnapshotStore:
    """What the control plane does there; putting and fetching is the hosts' own."""

    def __init__(
        self, network: Network, process: Process, objects: ObjectStore, forgotten: Callable[[str], None]
    ) -> None:
        self._network = network
        self._process = process
        self._objects = objects
        self._forgotten = forgotten
        self._weather = Weather()

    async def put(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> int:
        """Never asked of the control plane."""
        raise NotImplementedError

    async def fetch(self, manifest: SnapshotManifest, files: StoredFiles, *, progress: Progress) -> None:
        """Never asked of the control plane."""
        raise NotImplementedError

    async def put_backings(self, backings: Mapping[str, Path]) -> int:
        """Never asked of the control plane."""
        raise NotImplementedError

    async def fetch_backings(self, wanted: Mapping[str, Path]) -> None:
        """Never asked of the control plane."""
        raise NotImplementedError

    async def manifest(self, snapshot_id: str) -> SnapshotManifest:
        """Return what is published."""
        found = self._objects.published.get(snapshot_id)
        if found is None:
            raise NotFound(f"snapshot {snapshot_id}")
        return found.saved.manifest

    async def forget(self, snapshot_id: str) -> None:
        """Unpublish."""

        def work() -> None:
            if snapshot_id in self._objects.published:
                self._forgotten(snapshot_id)
                del self._objects.published[snapshot_id]

        await self._do(work)

    async def sweep(self, *, keep: Collection[str], older_than_s: float) -> int:
        """Remove nothing: everything here is young."""
        await self._do(lambda: None)
        return 0

    async def _do(self, work: Callable[[], None]) -> None:
        self._weather.is_down = self._objects.is_down
        try:
            await self._network.post(self._process, self._weather, work, patience_s=3.0)
        except (TimeoutError, OSError) as error:
            raise BlobsUnavailable("the object store does not answer") from error
