"""`/health`, `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sandfleet import __version__
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.answers import Answer, json_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.model.drain import DrainState
from sandfleet.model.errors import SandfleetError
from sandfleet.model.worker import WorkerState

PROBE_TIMEOUT_S = 2.0
POOL_ASKED_WITHIN = timedelta(minutes=1)
"""The leader asks each pool several times within it, also one that hangs."""
_BYTES_PER_MIB = 1024 * 1024


async def health(call: Call) -> Answer:
    """Say that the process answers."""
    return json_answer(200, {"status": "ok", "version": __version__})


async def healthz(call: Call) -> Answer:
    """Say that the process is alive."""
    return json_answer(200, {"status": "alive"})


async def readyz(call: Call) -> Answer:
    """Say whether this replica should get requests: not while it drains or has no PostgreSQL."""
    edge = call.edge
    postgres_problem = await _postgres_problem(edge)
    redis = "ok" if await _is_redis_healthy(edge) else "degraded"
    reason = "draining" if edge.drain.is_draining else postgres_problem
    body: dict[str, Any] = {"postgres": "unavailable" if postgres_problem else "ok", "redis": redis}
    if reason is not None:
        return json_answer(503, {"status": "not ready", "reason": reason, **body})
    return json_answer(200, {"status": "ready", **body})


async def _postgres_problem(edge: Edge) -> str | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await edge.plane.stores.terms.current_term()
    except TimeoutError:
        return "PostgreSQL does not answer"
    except SandfleetError as error:
        return error.message
    return None


async def _is_redis_healthy(edge: Edge) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await edge.plane.wake_ups.is_healthy()
    except TimeoutError:
        return False


async def metrics(call: Call) -> Answer:
    """Return the Prometheus text, with the fleet's figures read now."""
    return Answer(200, await exposition(call.edge), media_type=CONTENT_TYPE_LATEST)


async def exposition(edge: Edge) -> bytes:
    """Return all metrics; figures that cannot be read now keep their last value."""
    try:
        await _read_fleet(edge)
    except SandfleetError as error:
        edge.metrics.errors.labels(error.code).inc()
    return generate_latest(edge.metrics.registry)


async def _read_fleet(edge: Edge) -> None:
    stores, gauges = edge.plane.stores, edge.metrics
    counts = await stores.sandboxes.counts()
    gauges.sandboxes.clear()
    for state, count in counts.items():
        gauges.sandboxes.labels(state.value, edge.plane.settings.region).set(count)
    gauges.queue_length.set(await stores.placements.queue_length())
    gauges.leader_term.set(await stores.terms.current_term())
    _read_pools(edge)
    await _read_drains(edge)
    gauges.worker_committed.clear()
    gauges.worker_used.clear()
    gauges.exec_sessions.clear()
    workers = await stores.workers.list()
    await gauges.fleet.read(stores, workers, now=edge.plane.clock.now())
    for worker in workers:
        gauges.worker_committed.labels(worker.id).set(worker.committed.memory_mib * _BYTES_PER_MIB)
        gauges.worker_used.labels(worker.id).set(worker.memory_used_mib * _BYTES_PER_MIB)
        running = gauges.execs_reported.get(worker.id)
        if running is not None and worker.state is WorkerState.READY:
            gauges.exec_sessions.labels(worker.id).set(running)


def _read_pools(edge: Edge) -> None:
    """Tell of the pools that this replica asks: who does not lead any more knows nothing of them."""
    gauges, now = edge.metrics, edge.plane.clock.now()
    gauges.pool_answers.clear()
    for pool, (answers, at) in gauges.pools_asked.items():
        if now - at < POOL_ASKED_WITHIN:
            gauges.pool_answers.labels(pool).set(int(answers))


async def _read_drains(edge: Edge) -> None:
    drains, gauges = await edge.plane.stores.drains.list(), edge.metrics
    gauges.drain_stuck.clear()
    for state in DrainState:
        gauges.drains.labels(state.value).set(sum(drain.state is state for drain in drains))
    for drain in drains:
        if drain.state is DrainState.STUCK:
            gauges.drain_stuck.labels(drain.worker_id).set(len(drain.stays))


ENDPOINTS = (
    Endpoint("GET", ("/health",), health, "The process answers", Access.OPEN, {200: dict}),
    Endpoint("GET", ("/healthz",), healthz, "The process is alive", Access.OPEN, {200: dict}),
    Endpoint(
        "GET", ("/readyz",), readyz, "This replica should get requests", Access.OPEN, {200: dict, 503: dict}
    ),
    Endpoint("GET", ("/metrics",), metrics, "Prometheus text", Access.METRICS, {200: "text/plain"}),
)
