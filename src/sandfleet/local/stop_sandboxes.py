"""Ending every sandbox of this machine before the fleet goes down, in good order: by its API.

What it does not come to is left to `end_machines`, when the fleet's processes have ended. So each wait
here is short, and over when nothing has moved for a while: a fleet may be half broken, or may run
programs that were replaced on disk since.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import HypervisorConfig
from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.configuration import load_secrets
from sandfleet.local.layout import Layout
from sandfleet.local.machines import count_machines
from sandfleet.local.processes import ProcessIdentity, send_signal
from sandfleet.local.service_process import ServiceFailed
from sandfleet.local.services import SERVER
from sandfleet.local.state import FleetState, ServiceKind, read_state
from sandfleet_sdk import NO_RETRIES, Client, Organisation, RetryPolicy, SandfleetError

_END_WITHIN_S = 120.0
_READY_WITHIN_S = 20.0
_MOVES_WITHIN_S = 30.0
"""How long nothing may end before the rest is left to force."""
_REPORT_EVERY_S = 5.0
_POLL_S = 0.1
_IMPATIENT = RetryPolicy(attempts_max=4, pauses_s_max=5.0)
_PAGE = 1000
_PAGES_MAX = 1000
_LIVING = ("creating", "running", "hibernating", "waking", "restoring", "rebooting")


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it."""

    sandboxes: int = 0
    problem: str | None = None
    """Why some of them did not end in good order."""


def stop_sandboxes(layout: Layout, report: Callable[[str], None]) -> Ended:
    """Have the fleet end all sandboxes; return how many there were, and what kept it from some."""
    state = read_state(layout)
    if state is None or not any(s.is_alive for s in state.of_kind(ServiceKind.SERVER)):
        if count_machines(layout).total:
            raise ServiceFailed("sandboxes can only be ended by a running fleet: `sandfleet up` first")
        return Ended()
    said = _why_not_ready(layout, state)
    if said is not None:
        is_needed = count_machines(layout).owned > 0
        where = f"the server is not ready: {said}. Its log is {layout.log(SERVER)}"
        return Ended(problem=where if is_needed else None)
    ended = 0
    try:
        with Client(state.url, load_secrets(layout).bootstrap_key, retries=_IMPATIENT) as client:
            for organisation in client.fleet.organisations():
                ended += _end_all_of(client, state.url, organisation)
    except SandfleetError as error:
        return Ended(ended, f"the server refused: {error}")
    left = _watch_them_end(layout, report)
    return Ended(ended, f"{left} VMs of sandboxes did not end by themselves" if left else None)


def _watch_them_end(layout: Layout, report: Callable[[str], None]) -> int:
    """Return how many VMs of sandboxes are left when all have ended, or when no more end."""
    now = time.monotonic()
    left, moved_at, told_at, deadline = count_machines(layout).owned, now, now, now + _END_WITHIN_S
    while left and now < min(deadline, moved_at + _MOVES_WITHIN_S):
        if now > told_at + _REPORT_EVERY_S:
            report(f"{left} sandboxes are still ending")
            told_at = now
        time.sleep(_POLL_S)
        before, left, now = left, count_machines(layout).owned, time.monotonic()
        moved_at = now if left < before else moved_at
    return left


def _why_not_ready(layout: Layout, state: FleetState) -> str | None:
    """Give the server a moment to become ready; return what it says if it does not."""
    deadline = time.monotonic() + _READY_WITHIN_S
    with Client(state.url, load_secrets(layout).bootstrap_key, retries=NO_RETRIES) as client:
        while True:
            try:
                client.fleet.readiness()
            except SandfleetError as error:
                if time.monotonic() > deadline:
                    return str(error)
            else:
                return None
            time.sleep(_POLL_S)


def withdraw_host_rules(layout: Layout) -> None:
    """Take this fleet's firewall table off the host, when its worker has ended and no VM needs it."""
    if count_machines(layout).total:
        return
    for path in layout.settings_dir.glob("wk-*.toml"):
        withdraw_rules_of(path)


def withdraw_rules_of(settings_file: Path) -> None:
    """Take the firewall table of the worker with these settings off the host."""
    asyncio.run(rules_withdrawn(settings_file))


async def rules_withdrawn(settings_file: Path) -> None:
    """Take the firewall table of the worker with these settings off the host."""
    settings = tomllib.loads(settings_file.read_text())
    folders = HypervisorConfig(data_dir=Path(settings["data_dir"]), templates_dir=Path("/"))
    network = NamespaceNetwork(
        tag=folders.tag, address_range=IPv4Network(settings["network_range"]), resolvers=()
    )
    await network.withdraw()


def _end_all_of(admin: Client, url: str, organisation: Organisation) -> int:
    # An organisation's sandboxes are only seen with a key of its own: one is made for this moment.
    key = admin.fleet.create_key(organisation.id, name="sandfleet down")
    ended = 0
    try:
        with Client(url, key.key, retries=_IMPATIENT) as client:
            for _ in range(_PAGES_MAX):
                living = [s.id for s in client.sandboxes.list(status=_LIVING, limit=_PAGE)]
                for sandbox_id in living:
                    client.sandboxes.kill(sandbox_id)
                ended += len(living)
                if len(living) < _PAGE:
                    break
    finally:
        admin.fleet.revoke_key(organisation.id, key.id)
    return ended


def empty_pool(layout: Layout, worker: str, process: ProcessIdentity | None) -> None:
    """Have one worker restart with an empty pool: it removes the machines that it finds without an owner."""
    path = layout.settings(worker)
    text = re.sub(r"(?m)^warm_pool_size = .*$", "warm_pool_size = 0", path.read_text())
    write_atomically(path, text.encode(), mode=0o600)
    if process is not None:
        send_signal(process, signal.SIGTERM)


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    """Return when it is so; `ServiceFailed` when that takes too long."""
    deadline = time.monotonic() + _END_WITHIN_S
    while not is_so():
        if time.monotonic() > deadline:
            raise ServiceFailed(f"waited {_END_WITHIN_S:.0f} s for {what}")
        time.sleep(_POLL_S)
