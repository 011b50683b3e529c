"""A run as a page of curves over time: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sandfleet.testing.virtual_fleet.report import lower_bound
from sandfleet.testing.virtual_fleet.run import Run


def curves(done: Run) -> Mapping[str, Mapping[str, Sequence[float]]]:
    """Return the curves of each plot by their names."""
    rounds = done.rounds
    worker_mib = done.fleet.policy.sizes[0].resources.memory_mib
    return {
        "Workers": {
            "all": [one.workers for one in rounds],
            "hold something": [one.occupied for one in rounds],
            "least possible": [lower_bound(one, worker_mib) for one in rounds],
            "wanted": [one.wanted for one in rounds],
        },
        "On their way": {
            "boot": [one.booting for one in rounds],
            "drain": [one.draining for one in rounds],
        },
        "Sandboxes": {
            "live": [one.sandboxes for one in rounds],
            "wait": [one.queue for one in rounds],
        },
        "Promised memory, of all and of workers that hold something": {
            "of all": [one.promised_mib / max(1, one.capacity_mib) for one in rounds],
            "of those": [one.promised_mib / max(1, one.occupied_capacity_mib) for one in rounds],
        },
    }


def write_page(done: Run, path: Path, *, title: str) -> None:
    """Write the page; ImportError without the library for it."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    plots = curves(done)
    hours = [one.at_s / 3600 for one in done.rounds]
    page = make_subplots(rows=len(plots), cols=1, shared_xaxes=True, subplot_titles=list(plots))
    for row, lines in enumerate(plots.values(), start=1):
        for name, values in lines.items():
            page.add_trace(Scatter(x=hours, y=values, name=name, line={"width": 1.5}), row=row, col=1)
    page.update_layout(title=title, height=320 * len(plots), hovermode="x unified")
    page.update_xaxes(title_text="hours", row=len(plots), col=1)
    page.write_html(path, include_plotlyjs=True)
