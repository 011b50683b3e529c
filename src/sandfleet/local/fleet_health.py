"""What a running fleet says is wrong or less than it could be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2

from sandfleet.local.configuration import load_secrets
from sandfleet.local.layout import Layout
from sandfleet.local.state import FleetState, ServiceCondition, ServiceKind, ServiceState, read_state
from sandfleet_sdk import NO_RETRIES, Client, SandfleetError

_ANSWERS_WITHIN_S = 5.0


def complaints(layout: Layout) -> list[str] | None:
    """Return them as sentences, None when no fleet runs in this data directory."""
    state = read_state(layout)
    if state is None or not any(service.is_alive for service in state.services):
        return None
    return [*_of_processes(state), *_of_server(layout, state), *_of_workers(state)]


def _of_processes(state: FleetState) -> Iterator[str]:
    if not state.is_supervised:
        yield "no supervisor runs, so nothing that ends is started again: `sandfleet up` starts one"
    for service in state.services:
        if service.condition is not ServiceCondition.RUNNING or not service.is_alive:
            reason = f": {service.last_error}" if service.last_error else ""
            yield f"{service.name} is {service.condition.value}{reason}"


def _of_server(layout: Layout, state: FleetState) -> Iterator[str]:
    with Client(state.url, load_secrets(layout).bootstrap_key, retries=NO_RETRIES) as client:
        try:
            ready = client.fleet.readiness()
        except SandfleetError as error:
            yield f"the server is not ready: {error}"
            return
    if ready.get("redis") == "degraded":
        yield "the server is degraded: Valkey does not answer, so calls take longer than they need"


def _of_workers(state: FleetState) -> Iterator[str]:
    for worker in state.of_kind(ServiceKind.WORKER):
        health = _health(worker)
        if health is None:
            yield f"{worker.name} does not answer at port {worker.port}"
            continue
        if health.get("status") != "ok":
            yield f"{worker.name} is {health.get('phase')}"
        if health.get("trouble"):
            yield f"{worker.name}: {health['trouble']}"
        yield from (f"{worker.name} is degraded: {reason}" for reason in health.get("degraded", ()))


def _health(worker: ServiceState) -> dict[str, Any] | None:
    url = f"http://127.0.0.1:{worker.port}/health"
    try:
        answer = httpx2.get(url, timeout=_ANSWERS_WITHIN_S, trust_env=False)
        body: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, ValueError):
        return None
    return body
