"""Puts one replica together: stores, Redis, operations, loops, edge. Nothing else knows the adapters."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from sandfleet.adapters.blobs.objects import Objects
from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.fault_points import armed
from sandfleet.adapters.postgres.migrate import migrate
from sandfleet.adapters.postgres.wiring import PostgresStores, open_stores
from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.adapters.redis.leases import RedisLeaseStore
from sandfleet.adapters.redis.rates import RedisRateLimiter
from sandfleet.adapters.redis.routes import RedisRouteCache
from sandfleet.adapters.redis.wakeups import RedisWakeUps
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.adapters.workers.client import AiohttpWorkerClient
from sandfleet.adapters.workers.connections import worker_session
from sandfleet.adapters.workers.data_plane import AiohttpDataPlane
from sandfleet.adapters.workers.move_client import AiohttpMoveClient
from sandfleet.controlplane.background import Background
from sandfleet.controlplane.bootstrap import ensure_bootstrap_key
from sandfleet.controlplane.dependencies import ControlPlane, Stores
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.authentication import Authenticator
from sandfleet.controlplane.http.drain import Drain
from sandfleet.controlplane.http.keys import KeyRing
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.machine_pools import capacity_policy, open_pools, version_source
from sandfleet.controlplane.operations.fleet import Fleet
from sandfleet.controlplane.proxy.pending import start_what_others_left
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.controlplane.tokens import TokenSigner, load_signer
from sandfleet.controlplane.watched_pools import watched
from sandfleet.model.errors import StoreUnavailable
from sandfleet.ports.clock import Clock

log = structlog.get_logger(__name__)

START_ATTEMPTS_MAX = 60
START_PAUSE_S = 1.0


@asynccontextmanager
async def control_plane(settings: ControlPlaneSettings) -> AsyncIterator[Edge]:
    """Run everything of a replica but its HTTP server; leaving hands its operations over."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stores = _open_stores(settings)
        stack.push_async_callback(stores.database.close)
        signer = await _prepare(stores, settings, clock)
        connection = _redis(settings, clock, stack)
        session = await stack.enter_async_context(worker_session())
        wake_ups, metrics = RedisWakeUps(connection, clock), Metrics()
        faults = armed(settings.fault_points_dir)
        plane = ControlPlane(
            settings=settings,
            clock=clock,
            replica_id=instance_id(settings),
            stores=stores_of(stores),
            routes=RedisRouteCache(connection, clock),
            leases=RedisLeaseStore(connection),
            wake_ups=wake_ups,
            worker_client=(workers := AiohttpWorkerClient(session, signer.fleet_token, faults=faults)),
            move_client=AiohttpMoveClient(workers),
            public_keys=signer.public_keys,
            blobs=_blobs(settings, clock, stack),
            observer=metrics,
            data_plane=(data_plane := AiohttpDataPlane(session, signer.fleet_token)),
            faults=faults,
            pools=(pools := watched(open_pools(settings, clock), metrics, clock)),
            capacity=capacity_policy(settings, pools),
            rollout=settings.rollout.policy(settings.placement_policy),
            version_source=version_source(settings.rollout, clock),
        )
        background = Background(group := await stack.enter_async_context(TaskGroup()))
        stack.callback(background.cancel_all)
        stack.callback(group.create_task(wake_ups.run(), name="wake-ups").cancel)
        lifecycle = await stack.enter_async_context(Fleet(plane).running())
        keys = KeyRing(plane.stores.organisations, clock=clock, cache_s=settings.key_cache_s)
        edge = Edge(
            plane=plane,
            lifecycle=lifecycle,
            data_plane=data_plane,
            tokens=signer,
            keys=keys,
            authenticator=_authenticator(keys, signer, settings),
            background=background,
            drain=Drain(),
            metrics=metrics,
            rates=RedisRateLimiter(connection, clock),
        )
        stack.callback(group.create_task(start_what_others_left(edge), name="pending-commands").cancel)
        yield edge


def instance_id(settings: ControlPlaneSettings) -> str:
    """Return what this process, and no other that was given the same name, holds leases as."""
    return f"{settings.replica_id or 'replica'}-{secrets.token_hex(6)}"


def _open_stores(settings: ControlPlaneSettings) -> PostgresStores:
    return open_stores(
        settings.postgres_url.get_secret_value(),
        master_secret=settings.master_secret.get_secret_value(),
        pool_max=settings.postgres_pool_max,
    )


def _redis(settings: ControlPlaneSettings, clock: Clock, stack: AsyncExitStack) -> RedisConnection:
    connection = RedisConnection(settings.redis_url.get_secret_value(), clock)
    stack.push_async_callback(connection.close)
    return connection


def _blobs(settings: ControlPlaneSettings, clock: Clock, stack: AsyncExitStack) -> ObjectSnapshotStore | None:
    """Return the object store, closed by `stack`, if there is one."""
    if settings.blob_store_url is None:
        return None
    objects = Objects.open(settings.blob_store_url)
    stack.callback(objects.close)
    return ObjectSnapshotStore(objects, clock=clock)


def _authenticator(keys: KeyRing, signer: TokenSigner, settings: ControlPlaneSettings) -> Authenticator:
    join_token = settings.join_token.get_secret_value()
    return Authenticator(keys, signer, query_key=settings.auth_query_key, join_token=join_token)


async def _prepare(stores: PostgresStores, settings: ControlPlaneSettings, clock: Clock) -> TokenSigner:
    """Bring the schema up to date, and have the fleet's key pair and the bootstrap key."""
    for attempt in range(START_ATTEMPTS_MAX):
        try:
            await migrate(stores.database)
            signer = await load_signer(
                stores.secrets,
                clock=clock,
                sandbox_ttl_s=settings.sandbox_token_ttl_s,
                fleet_ttl_s=settings.fleet_token_ttl_s,
            )
            key = settings.bootstrap_key.get_secret_value()
            await ensure_bootstrap_key(stores.organisations, key, clock=clock)
        except StoreUnavailable:
            log.warning("waiting for PostgreSQL", attempt=attempt + 1, attempts_max=START_ATTEMPTS_MAX)
            await clock.sleep(START_PAUSE_S)
        else:
            return signer
    raise StoreUnavailable("PostgreSQL did not answer in the time of the start")


def stores_of(stores: PostgresStores) -> Stores:
    """Return the ports of the control plane, kept by PostgreSQL."""
    return Stores(
        sandboxes=stores.sandboxes,
        placements=stores.placements,
        operations=stores.operations,
        workers=stores.workers,
        organisations=stores.organisations,
        idempotency=stores.idempotency,
        secrets=stores.secrets,
        terms=stores.terms,
        snapshots=stores.snapshots,
        checkpoints=stores.checkpoints,
        previews=stores.previews,
        tags=stores.tags,
        sizes=stores.sizes,
        moves=stores.moves,
        drains=stores.drains,
        fleet=stores.fleet,
        rollouts=stores.rollouts,
        log=stores.log,
        commands=stores.commands,
    )
