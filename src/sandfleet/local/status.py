"""`status`: what runs, by the state file and by the fleet's own answers."""

from __future__ import annotations

from typing import Any

from sandfleet.local.configuration import load_configuration, load_secrets
from sandfleet.local.layout import Layout
from sandfleet.local.ports import LOOPBACK
from sandfleet.local.state import FleetState, ServiceKind, ServiceState, read_state
from sandfleet_sdk import NO_RETRIES, Client, SandfleetError, Worker

STOPPED = "stopped"


def fleet_status(layout: Layout) -> dict[str, Any]:
    """Return everything `status --json` prints. Nothing is created by asking."""
    state = read_state(layout)
    if state is None or not layout.secrets.exists():
        return _nothing(layout)
    api_key = load_secrets(layout).bootstrap_key
    reason, workers = _ask(state, api_key)
    return {
        "url": state.url,
        "apiKey": api_key,
        "dataDir": str(layout.data_dir),
        "ready": not reason,
        "reason": reason or None,
        "supervisor": {"running": state.is_supervised, "pid": state.supervisor.pid},
        "postgres": _first(state, ServiceKind.POSTGRES),
        "valkey": _first(state, ServiceKind.VALKEY),
        "servers": [_server(state, service) for service in state.of_kind(ServiceKind.SERVER)],
        "balancer": _first(state, ServiceKind.BALANCER),
        "workers": [
            _worker(service, workers.get(service.name)) for service in state.of_kind(ServiceKind.WORKER)
        ],
        "capacity": _capacity(layout),
    }


def _capacity(layout: Layout) -> dict[str, Any] | None:
    """Return how many workers the fleet may have; null where it has those that it was given."""
    configuration = load_configuration(layout)
    if configuration.workers_max is None:
        return None
    return {
        "workersMin": len(configuration.workers),
        "workersMax": configuration.workers_max,
        "idleReserve": configuration.idle_reserve,
        "calmS": configuration.calm_s,
    }


def _ask(state: FleetState, api_key: str) -> tuple[str, dict[str, Worker]]:
    if not any(service.is_alive for service in state.of_kind(ServiceKind.SERVER)):
        return "no server runs: start it with `sandfleet up`", {}
    with Client(state.url, api_key, retries=NO_RETRIES) as client:
        try:
            client.fleet.readiness()
            workers = {worker.id: worker for worker in client.fleet.workers()}
        except SandfleetError as error:
            return str(error), {}
    if not any(worker.state == "ready" for worker in workers.values()):
        return "no worker is ready", workers
    return "", workers


def _first(state: FleetState, kind: ServiceKind) -> dict[str, Any] | None:
    return next((_service(service) for service in state.of_kind(kind)), None)


def _server(state: FleetState, service: ServiceState) -> dict[str, Any]:
    # Behind the load balancer each has an address of its own; a single one has the fleet's.
    is_alone = len(state.of_kind(ServiceKind.SERVER)) == 1
    url = state.url if is_alone else f"http://{LOOPBACK}:{service.port}"
    return {"url": url, **_service(service)}


def _service(service: ServiceState) -> dict[str, Any]:
    alive = service.is_alive
    return {
        "name": service.name,
        "state": service.condition.value if alive else _dead(service),
        "pid": service.process.pid if alive and service.process else None,
        "port": service.port,
        "restarts": service.restarts,
        "lastError": service.last_error,
        "since": service.since.isoformat() if service.since else None,
    }


def _dead(service: ServiceState) -> str:
    # The record of a supervisor that was killed may call a dead process running.
    return service.condition.value if service.condition.value != "running" else STOPPED


def _worker(service: ServiceState, known: Worker | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": service.name, **_service(service)}
    facts["process"] = facts.pop("state")
    facts["launched"] = service.is_launched
    facts["draining"] = known.draining if known else None
    facts["state"] = known.state if known else facts["process"]
    facts["sandboxes"] = known.sandboxes if known else None
    facts["memoryTotalMb"] = known.memory_total_mib if known else None
    facts["memoryCommittedMb"] = known.memory_committed_mib if known else None
    return facts


def _nothing(layout: Layout) -> dict[str, Any]:
    return {
        "url": None,
        "apiKey": None,
        "dataDir": str(layout.data_dir),
        "ready": False,
        "reason": f"no fleet was ever started in {layout.data_dir}: start one with `sandfleet up`",
        "supervisor": {"running": False, "pid": None},
        "postgres": None,
        "valkey": None,
        "servers": [],
        "balancer": None,
        "workers": [],
        "capacity": None,
    }
