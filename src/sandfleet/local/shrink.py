"""Taking workers out of a one-machine fleet: only empty ones, and nothing of them stays behind.

Order, so that a crash after any step leaves only work to repeat: the fleet forgets the worker,
which it refuses while anything depends on it; the VMs that stood ready there end; the choice
goes, and with it the process; its rules leave the host.
"""

from __future__ import annotations

import msgspec

from sandfleet.local.configuration import WorkerChoice, load_configuration, load_secrets, save_configuration
from sandfleet.local.layout import Layout
from sandfleet.local.machines import count_machines
from sandfleet.local.service_process import ServiceFailed
from sandfleet.local.state import ServiceKind, read_state
from sandfleet.local.stop_sandboxes import empty_pool, wait_for, withdraw_rules_of
from sandfleet_sdk import ApiError, Client


def take_out_beyond(layout: Layout, *, workers: int | None) -> tuple[WorkerChoice, ...]:
    """Take out the workers that came last, so that so many stay; return them. None: all stay.

    `ServiceFailed` if one is not empty: then none goes.
    """
    going = () if workers is None else load_configuration(layout).workers[workers:]
    if going:
        _take_out(layout, going)
    return going


def _take_out(layout: Layout, going: tuple[WorkerChoice, ...]) -> None:
    state = read_state(layout)
    if state is None or not any(one.is_alive for one in state.of_kind(ServiceKind.SERVER)):
        raise ServiceFailed("workers can only be taken out of a fleet that runs: `sandfleet up` first")
    with Client(state.url, load_secrets(layout).bootstrap_key) as client:
        for worker in going:
            _forget(client, worker)
    for worker in going:
        process = state.service(worker.id)
        empty_pool(layout, worker.id, process.process if process else None)
    for worker in going:
        wait_for(
            lambda worker=worker: count_machines(layout, worker=worker.id).total == 0,  # type: ignore[misc]
            f"the machines that stand ready on {worker.id} to end",
        )
    configuration = load_configuration(layout)
    staying = tuple(one for one in configuration.workers if one not in going)
    save_configuration(layout, msgspec.structs.replace(configuration, workers=staying))


def clear_away(layout: Layout, gone: tuple[WorkerChoice, ...]) -> None:
    """Remove the host's rules and the settings of workers whose processes have ended."""
    for worker in gone:
        path = layout.settings(worker.id)
        if path.exists():
            withdraw_rules_of(path)
            path.unlink()


def _forget(client: Client, worker: WorkerChoice) -> None:
    try:
        client.fleet.forget_worker(worker.id)
    except ApiError as error:
        if error.code == "not_found":
            return  # it never came so far as to be known
        raise ServiceFailed(
            f"{error.message}. End or hibernate what runs there; until then the workers stay as they are"
        ) from error
