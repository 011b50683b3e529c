"""Two steps of the demo: a sandbox sleeps and is woken by a command, and is forked with its memory."""

from __future__ import annotations

import secrets

from sandfleet.local.demo_owner import ownership
from sandfleet.local.demo_tour import BOOT_ID, TIMEOUT_S, Tour, require

_FORKS = 2
_SLEEPER = "setsid sleep 1000 >/dev/null 2>&1 & echo $!"
_IN_MEMORY = "/dev/shm/in-memory"  # noqa: S108 -- of a sandbox, not of this machine


def slept(tour: Tour) -> list[str]:
    """Save the sandbox, so that it holds no memory of the host, and wake it by running a command."""
    boot = tour.run(BOOT_ID).stdout
    process = tour.run(_SLEEPER).stdout.strip()
    with tour.measured("put to sleep"):
        tour.client.sandboxes.hibernate(tour.first)
    status = tour.client.sandboxes.get(tour.first).status
    require(status == "hibernated", f"the sandbox is {status}, not hibernated")
    holders = [one.id for one in tour.client.fleet.workers() if tour.first in one.raw["sandboxes"]]
    require(not holders, f"it sleeps, and {holders} still hold it")
    with tour.measured("woken by a command, until its answer"):
        boot_now = tour.run(BOOT_ID).stdout
    require(boot_now == boot, "the sandbox was booted anew")
    require(_is_running(tour, process, sandbox=tour.first), "its program did not live through the sleep")
    return [
        f"$ sandfleet hibernate {tour.first[:8]}  ->  {status}: no worker holds it",
        f"$ sandfleet exec {tour.first[:8]} …  ->  woken by it: same boot, process {process} still running",
    ]


def forked(tour: Tour) -> list[str]:
    """Start copies of the running sandbox, its memory and processes included; each goes its own way."""
    token = secrets.token_hex(16)
    process = tour.run(f"echo {token} > {_IN_MEMORY}; {_SLEEPER}").stdout.strip()
    with tour.measured(f"fork of {_FORKS}"):
        forks = tour.client.sandboxes.fork(
            tour.first, count=_FORKS, timeout_s=TIMEOUT_S, metadata=ownership()
        )
    copies = [one.id for one in forks.sandboxes]
    tour.sandboxes.extend(copies)
    for copy in copies:
        held = tour.run(f"cat {_IN_MEMORY}; echo {copy} > {_IN_MEMORY}", sandbox=copy).stdout.strip()
        require(held == token, f"{copy} has {held!r} in memory, not what its origin had")
        require(_is_running(tour, process, sandbox=copy), f"the origin's program does not run in {copy}")
    family = [tour.first, *copies]
    held_now = [tour.run(f"cat {_IN_MEMORY}", sandbox=one).stdout.strip() for one in family]
    require(held_now == [token, *copies], "a copy's writing is seen in another")
    ids = {tour.run("cat /etc/machine-id", sandbox=one).stdout for one in family}
    require(len(ids) == len(family), "copies have one identity")
    return [
        f"$ sandfleet fork {tour.first[:8]} --count {_FORKS}  ->  {', '.join(one[:8] for one in copies)}, "
        f"their origin standing still for {forks.pause_ms:.0f} ms",
        f"process {process} and what it had in memory are in each; what one writes, no other sees",
    ]


def _is_running(tour: Tour, process: str, *, sandbox: str) -> bool:
    found = tour.client.commands.run(sandbox, f"grep -q sleep /proc/{process}/comm")
    return found.exit_code == 0
