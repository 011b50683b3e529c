"""`up`, `down`, `status`, `doctor`: the fleet of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandfleet.cli.options import AsJson, DataDir
from sandfleet.cli.output import say, show_json, tell, waiting
from sandfleet.cli.up_options import (
    ApiHost,
    ApiPort,
    Calm,
    Foreground,
    IdleReserve,
    Memory,
    Servers,
    UpTimeout,
    Workers,
    WorkersMax,
)

if TYPE_CHECKING:
    from sandfleet.local.layout import Layout

_UP_TIMEOUT_S = 600.0
_OUTCOMES = {
    "fresh": "The fleet is up.",
    "changed": "The fleet is up, changed as you chose.",
    "nothing": "The fleet was up already.",
}


def up(  # noqa: PLR0913 -- one argument per option
    *,
    host: ApiHost = None,
    port: ApiPort = None,
    memory: Memory = None,
    servers: Servers = None,
    workers: Workers = None,
    workers_max: WorkersMax = None,
    idle_reserve: IdleReserve = None,
    calm: Calm = None,
    foreground: Foreground = False,
    timeout: UpTimeout = _UP_TIMEOUT_S,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Start this machine's fleet: PostgreSQL, Valkey, servers and workers, kept running."""
    from sandfleet.local import up as fleet

    layout = _layout(data_dir)
    _require_what_is_needed(servers=servers or 1)
    order = fleet.UpOrder(
        api_host=host,
        api_port=port,
        memory_mib=memory,
        servers=servers,
        workers=workers,
        workers_max=workers_max,
        idle_reserve=idle_reserve,
        calm_s=calm,
    )
    fleet.configure(layout, order)
    if foreground:
        from sandfleet.local.supervise import run

        tell("The fleet runs until Ctrl-C; `sandfleet status` in another terminal shows URL and key.")
        raise typer.Exit(run(layout))
    _start(layout, workers=workers, timeout_s=timeout, as_json=as_json)


def _start(layout: Layout, *, workers: int | None, timeout_s: float, as_json: bool) -> None:
    from sandfleet.local import shrink
    from sandfleet.local import up as fleet
    from sandfleet.local.status import fleet_status

    with waiting("starting the fleet"):
        going = shrink.take_out_beyond(layout, workers=workers)
        outcome = fleet.bring_up(layout, timeout_s=timeout_s, report=lambda line: tell(f"  {line}"))
        shrink.clear_away(layout, going)
    status = fleet_status(layout)
    if as_json:
        show_json(status)
        return
    say(_OUTCOMES[outcome.value])
    _greet(status)


def down(
    *,
    stop_sandboxes: Annotated[
        bool,
        typer.Option(
            "--stop-sandboxes", help="End the sandboxes as well. Without it they run on for the next `up`."
        ),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End the fleet's processes. Sandboxes run on and are served again by the next `up`."""
    from sandfleet.local import down as fleet

    layout = _layout(data_dir)
    if stop_sandboxes:
        was_running, ended = _down_with_sandboxes(layout)
    else:
        ended = 0
        with waiting("ending the fleet"):
            was_running = fleet.stop(layout)
    if as_json:
        show_json({"stopped": was_running, "sandboxesEnded": ended})
    elif was_running:
        say("The fleet is down." if not ended else f"The fleet is down; {ended} sandboxes were ended.")
    else:
        say(f"No fleet was running in {layout.data_dir}.")


def _down_with_sandboxes(layout: Layout) -> tuple[bool, int]:
    """End sandboxes and fleet in good order, and by force what does not; return if it ran, and how many."""
    from sandfleet.local import down as fleet
    from sandfleet.local import stop_sandboxes as everything
    from sandfleet.local.end_machines import end_machines
    from sandfleet.local.machines import count_machines

    def report(line: str) -> None:
        tell(f"  {line}")

    with waiting("ending the fleet"):
        orderly = everything.stop_sandboxes(layout, report)
        if orderly.problem is not None:
            report(f"{orderly.problem}; the fleet is ended all the same, and then its VMs")
        owned = count_machines(layout).owned
        was_running = fleet.stop(layout)
        end_machines(layout, report)
        everything.withdraw_host_rules(layout)
    if owned:
        tell(
            f"{owned} sandboxes were ended by force: the next `up` counts them as lost. "
            "What was saved of them is still there."
        )
    return was_running, orderly.sandboxes


def status(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show what runs, where, and with which key. The exit code is 1 when the fleet is not ready."""
    from sandfleet.local.status import fleet_status

    facts = fleet_status(_layout(data_dir))
    if as_json:
        show_json(facts)
    else:
        _show_status(facts)
    if not facts["ready"]:
        raise typer.Exit(1)


def doctor(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check whether this machine can run sandboxes, and say what to do where it cannot."""
    from sandfleet.local.doctor import Verdict, examine

    with waiting("looking"):
        findings = examine(_layout(data_dir))
    if as_json:
        show_json([finding.as_json() for finding in findings])
    else:
        marks = {Verdict.OK: "ok  ", Verdict.WARN: "warn", Verdict.FAIL: "FAIL"}
        for finding in findings:
            say(f"{marks[finding.verdict]}  {finding.subject:<14} {finding.fact}")
            if finding.advice:
                say(f"{'':22}{finding.advice}")
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)


def ensure_up(data_dir: Path | None, *, workers: int) -> Layout:
    """Have the fleet running with at least so many workers, telling its progress; return where it lives."""
    from sandfleet.local import up as fleet

    layout = _layout(data_dir)
    _require_what_is_needed()
    fleet.configure(layout, fleet.UpOrder(workers=workers))
    fleet.bring_up(layout, timeout_s=_UP_TIMEOUT_S, report=lambda line: tell(f"  {line}"))
    return layout


def _layout(data_dir: Path | None) -> Layout:
    from sandfleet.local.layout import Layout, default_data_dir

    return Layout((data_dir or default_data_dir()).resolve())


def _require_what_is_needed(*, servers: int = 1) -> None:
    import os

    from sandfleet.cli.errors import CommandFailed
    from sandfleet.local.balancer import find_program
    from sandfleet.local.image import current_image

    if os.geteuid() != 0:
        raise CommandFailed(
            "the fleet's worker needs root, for network namespaces and cgroups", hint="run it with sudo"
        )
    if current_image() is None:
        raise CommandFailed(
            "there is no guest image on this machine",
            hint="build it with `sandfleet image build` (about a minute), or run `make setup`",
        )
    if servers > 1 and find_program() is None:
        raise CommandFailed("several servers need HAProxy before them", hint="install it with `make setup`")


def _greet(status: dict[str, Any]) -> None:
    say("")
    say(f"  URL      {status['url']}")
    say(f"  API key  {status['apiKey']}")
    say("")
    say("Try:")
    say("  sandfleet create --alias first")
    say("  sandfleet exec first -- python3 -c 'print(6 * 7)'")
    say("  sandfleet rm first")
    say("")
    say("For other programs:")
    say(f"  export OPENCOMPUTER_API_URL={status['url']} OPENCOMPUTER_API_KEY={status['apiKey']}")


def _show_status(facts: dict[str, Any]) -> None:
    from sandfleet.cli.output import show_table

    say("ready" if facts["ready"] else f"not ready: {facts['reason']}")
    if facts["url"] is None:
        return
    say(f"url      {facts['url']}")
    say(f"api key  {facts['apiKey']}")
    say(f"data     {facts['dataDir']}")
    if not facts["supervisor"]["running"]:
        say("no supervisor: `sandfleet up` starts one, which takes over what still runs")
    services = [
        facts["postgres"],
        facts["valkey"],
        *facts["servers"],
        facts["balancer"],
        *facts["workers"],
    ]
    rows = [
        (s["name"], s["state"], s["pid"], s["port"], s["restarts"], s["lastError"])
        for s in services
        if s is not None
    ]
    show_table(("SERVICE", "STATE", "PID", "PORT", "RESTARTS", "LAST ERROR"), rows, empty="no services")
    for worker in facts["workers"]:
        if worker["memoryTotalMb"]:
            marks = "".join(f", {mark}" for mark in ("launched", "draining") if worker[mark])
            say(
                f"{worker['id']}: {worker['sandboxes']} sandboxes, "
                f"{worker['memoryCommittedMb']} of {worker['memoryTotalMb']} MiB memory promised{marks}"
            )
    if facts["capacity"]:
        say(
            "workers by load: {workersMin} to {workersMax}, {idleReserve} in reserve".format(
                **facts["capacity"]
            )
        )
