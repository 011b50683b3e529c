"""All stores of one process over one database in memory."""

from __future__ import annotations

from sandfleet.controlplane.dependencies import Stores
from sandfleet.testing.memory.commands import MemoryPendingCommandStore
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.drains import MemoryDrainStore
from sandfleet.testing.memory.fleet import MemoryFleetStore
from sandfleet.testing.memory.idempotency import MemoryIdempotencyStore
from sandfleet.testing.memory.link import DirectLink, Link
from sandfleet.testing.memory.move_places import MemoryMoveStore
from sandfleet.testing.memory.operations import MemoryOperationStore
from sandfleet.testing.memory.placements import MemoryPlacementStore, MemorySizeStore
from sandfleet.testing.memory.sandboxes import MemorySandboxStore
from sandfleet.testing.memory.saved_states import MemoryCheckpointRecords, MemorySnapshotRecords
from sandfleet.testing.memory.tenants import (
    MemoryFleetSecretStore,
    MemoryOrganisationStore,
    MemoryPreviewStore,
    MemoryTagStore,
    MemoryTermStore,
)
from sandfleet.testing.memory.transition_log import MemoryTransitionLog
from sandfleet.testing.memory.workers import MemoryWorkerStore


def memory_stores(database: MemoryDatabase, link: Link | None = None) -> Stores:
    """Return the stores of a process that reaches `database` over `link`."""
    way = link or DirectLink()
    return Stores(
        sandboxes=MemorySandboxStore(database, way),
        placements=MemoryPlacementStore(database, way),
        operations=MemoryOperationStore(database, way),
        workers=MemoryWorkerStore(database, way),
        organisations=MemoryOrganisationStore(database, way),
        idempotency=MemoryIdempotencyStore(database, way),
        secrets=MemoryFleetSecretStore(database, way),
        terms=MemoryTermStore(database, way),
        snapshots=MemorySnapshotRecords(database, way),
        checkpoints=MemoryCheckpointRecords(database, way),
        previews=MemoryPreviewStore(database, way),
        tags=MemoryTagStore(database, way),
        sizes=MemorySizeStore(database, way),
        moves=MemoryMoveStore(database, way),
        drains=MemoryDrainStore(database, way),
        fleet=MemoryFleetStore(database, way),
        log=MemoryTransitionLog(database, way),
        commands=MemoryPendingCommandStore(database, way),
    )
