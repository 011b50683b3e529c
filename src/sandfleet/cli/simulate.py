"""`simulate`: what the planners would do with a load, in virtual time and without any host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import AsJson
from sandfleet.cli.output import progress, show_json, show_table, tell

if TYPE_CHECKING:
    from sandfleet.testing.virtual_fleet.report import Figures
    from sandfleet.testing.virtual_fleet.scenario import Scenario
    from sandfleet.testing.virtual_fleet.trace import Arrival

USUAL_HOURS = 6.0
_EXPLAINED = {
    "sandboxes_placed": "sandboxes that got a place",
    "sandboxes_at_once_max": "of them at the same time, at most",
    "refused": "refused after waiting for a place",
    "waited": "waited for a place and got it",
    "wait_s_p50": "their wait in s, median",
    "wait_s_p99": "their wait in s, 99th percentile",
    "workers_mean": "workers, in the mean",
    "workers_max": "workers, at most",
    "utilisation": "promised memory, of all",
    "packing": "least possible workers, of those that hold something",
    "fragmentation": "free memory in pieces too small for the usual sandbox",
    "launches": "machines launched",
    "removals": "machines removed",
    "thrash": "launched within 30 minutes after a removal",
    "migrations": "live migrations",
    "migrated_gib": "memory that they moved, in GiB",
    "drains": "drains",
    "drains_called_off": "of them called off",
    "cost": "cost",
    "cost_least": "cost of the least possible workers",
    "placements_per_s": "placements for each second of real time",
}
_SHARES = ("utilisation", "packing", "fragmentation")


def simulate(  # noqa: PLR0913 -- each is an option
    trace: Annotated[
        Path | None, typer.Argument(help="A file of JSON lines, one sandbox each.", exists=True)
    ] = None,
    *,
    workers: Annotated[int, typer.Option(min=1, help="How many workers there may be, at most.")] = 100,
    sandboxes: Annotated[
        int, typer.Option(min=1, help="How many live at once in the mean, when there is no trace.")
    ] = 1000,
    hours: Annotated[
        float | None,
        typer.Option(min=0.01, help="How long it lasts, in virtual time: as a trace does, else 6 hours."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes another load.")] = 0,
    worker_memory: Annotated[int, typer.Option(min=1024, help="Memory of a worker, in MiB.")] = 131072,
    boot: Annotated[float, typer.Option(min=0, help="Seconds from a launch to a worker that serves.")] = 90.0,
    reserve: Annotated[int, typer.Option(min=0, help="Workers that stand empty.")] = 1,
    rollout_after: Annotated[
        float | None, typer.Option(min=0, help="Roll a new version out after so many hours.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write the generated trace to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write curves to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the planners on a recorded or a generated load and report how the fleet fares."""
    from sandfleet.cli.errors import CommandFailed
    from sandfleet.testing.virtual_fleet.scenario import Scenario, hours_of
    from sandfleet.testing.virtual_fleet.trace import BadTrace, read_trace, write_trace

    _require_page(plot)
    scenario = Scenario(
        workers_max=workers,
        sandboxes=sandboxes,
        hours=USUAL_HOURS if hours is None else hours,
        seed=seed,
        worker_memory_mib=worker_memory,
        boot_s=boot,
        idle_reserve=reserve,
        rollout_after_h=rollout_after,
    )
    try:
        arrivals = scenario.trace() if trace is None else read_trace(trace)
        if trace is not None and hours is None:
            scenario = replace(scenario, hours=hours_of(arrivals))
        if record is not None:
            write_trace(record, arrivals)
        found = _played(scenario, arrivals, plot=plot, is_quiet=as_json)
    except BadTrace as error:
        raise CommandFailed(f"{trace}: {error}") from error
    _show(found, as_json=as_json)


def _show(found: Figures, *, as_json: bool) -> None:
    if as_json:
        show_json(found.to_json())
        return
    rows = [(what, _shown(name, getattr(found, name))) for name, what in _EXPLAINED.items()]
    show_table(("WHAT", "FIGURE"), rows, empty="")


def _require_page(plot: Path | None) -> None:
    from sandfleet.cli.errors import CommandFailed

    if plot is not None and plot.suffix != ".html":
        raise CommandFailed(f"{plot} is no .html file", hint="curves are written as one HTML page")


def _played(scenario: Scenario, arrivals: Sequence[Arrival], *, plot: Path | None, is_quiet: bool) -> Figures:
    from sandfleet.testing.virtual_fleet.report import figures

    if scenario.played_s < scenario.hours * 3600:
        tell(f"of {scenario.hours:.0f} hours the first {scenario.played_s / 3600:.0f} are played")
    with progress(f"{len(arrivals)} sandboxes", is_wanted=not is_quiet) as on_round:
        done = scenario.play(arrivals, on_round=on_round)
    if plot is not None:
        _write_plot(plot, done)
    if done.rollout is not None:
        tell(f"roll-out: {done.rollout.stage} {done.rollout.reason}".rstrip())
    return figures(done, round_s=scenario.round_s)


def _write_plot(path: Path, done: object) -> None:
    from sandfleet.cli.errors import CommandFailed
    from sandfleet.testing.virtual_fleet.plots import write_page
    from sandfleet.testing.virtual_fleet.run import Run

    assert isinstance(done, Run)
    try:
        write_page(done, path, title="A simulated fleet")
    except ImportError as error:
        raise CommandFailed(
            "there is no library for curves", hint="install sandfleet with its extra: `sandfleet[plots]`"
        ) from error


def _shown(name: str, value: float) -> str:
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
