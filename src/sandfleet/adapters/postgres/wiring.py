"""Everything that this adapter offers, made from one URL."""

from __future__ import annotations

from dataclasses import dataclass

from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.drains import PostgresDrainStore
from sandfleet.adapters.postgres.fleet import PostgresFleetStore
from sandfleet.adapters.postgres.fleet_secrets import PostgresFleetSecretStore
from sandfleet.adapters.postgres.idempotency import PostgresIdempotencyStore
from sandfleet.adapters.postgres.labels import PostgresPreviewStore, PostgresTagStore
from sandfleet.adapters.postgres.move_places import PostgresMoveStore
from sandfleet.adapters.postgres.operations import PostgresOperationStore
from sandfleet.adapters.postgres.organisations import PostgresOrganisationStore
from sandfleet.adapters.postgres.pending_commands import PostgresPendingCommandStore
from sandfleet.adapters.postgres.placement import PostgresPlacementStore
from sandfleet.adapters.postgres.rollouts import PostgresRolloutStore
from sandfleet.adapters.postgres.sandboxes import PostgresSandboxStore
from sandfleet.adapters.postgres.saved_states import PostgresCheckpointRecords, PostgresSnapshotRecords
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.adapters.postgres.sizes import PostgresSizeStore
from sandfleet.adapters.postgres.terms import PostgresTermStore
from sandfleet.adapters.postgres.transition_log import PostgresTransitionLog
from sandfleet.adapters.postgres.workers import PostgresWorkerStore


@dataclass(frozen=True, slots=True)
class PostgresStores:
    """The stores over one pool. `database.close()` ends them all."""

    database: Database
    sandboxes: PostgresSandboxStore
    placements: PostgresPlacementStore
    operations: PostgresOperationStore
    workers: PostgresWorkerStore
    organisations: PostgresOrganisationStore
    idempotency: PostgresIdempotencyStore
    secrets: PostgresFleetSecretStore
    terms: PostgresTermStore
    snapshots: PostgresSnapshotRecords
    checkpoints: PostgresCheckpointRecords
    previews: PostgresPreviewStore
    tags: PostgresTagStore
    sizes: PostgresSizeStore
    moves: PostgresMoveStore
    drains: PostgresDrainStore
    fleet: PostgresFleetStore
    rollouts: PostgresRolloutStore
    log: PostgresTransitionLog
    commands: PostgresPendingCommandStore


def open_stores(url: str, *, master_secret: str, pool_max: int = 20) -> PostgresStores:
    """Return the stores; nothing is connected yet. `migrate(stores.database)` first."""
    database = Database(url, pool_max=pool_max)
    sealer = Sealer(master_secret)
    return PostgresStores(
        database=database,
        sandboxes=PostgresSandboxStore(database, sealer),
        placements=PostgresPlacementStore(database),
        operations=PostgresOperationStore(database),
        workers=PostgresWorkerStore(database),
        organisations=PostgresOrganisationStore(database),
        idempotency=PostgresIdempotencyStore(database, sealer),
        secrets=PostgresFleetSecretStore(database, sealer),
        terms=PostgresTermStore(database),
        snapshots=PostgresSnapshotRecords(database),
        checkpoints=PostgresCheckpointRecords(database, sealer),
        previews=PostgresPreviewStore(database),
        tags=PostgresTagStore(database),
        sizes=PostgresSizeStore(database, sealer),
        moves=PostgresMoveStore(database),
        drains=PostgresDrainStore(database),
        fleet=PostgresFleetStore(database),
        rollouts=PostgresRolloutStore(database),
        log=PostgresTransitionLog(database),
        commands=PostgresPendingCommandStore(database, sealer),
    )
