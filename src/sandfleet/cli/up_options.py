"""The options of `up`. What is kept for later stands until another `up` says otherwise."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.local.places import WORKERS_MAX

ApiHost = Annotated[
    str | None, typer.Option(help="Address the API listens on; kept for later. Default 127.0.0.1.")
]
ApiPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Preferred port of the API (another is taken if it is not free)."),
]
Memory = Annotated[
    int | None,
    typer.Option(min=1024, help="MiB that all sandboxes together may be promised; kept for later."),
]
Servers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=8,
        help="Replicas of the control plane, behind HAProxy if several; kept for later. Default 1.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=WORKERS_MAX, help="Workers that are there whatever the load; kept for later. Default 1."
    ),
]
WorkersMax = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=WORKERS_MAX - 1,  # the last place is for the one that a roll-out brings first
        help="Up to so many workers by themselves as load demands; all share the memory; kept for later.",
    ),
]
IdleReserve = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=WORKERS_MAX - 1,
        help="Workers that stand empty for the next burst; kept for later. Default 0.",
    ),
]
Calm = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="SECONDS",
        help="How long a worker must have been dispensable before it goes; kept for later. Default 600.",
    ),
]
Foreground = Annotated[bool, typer.Option("--foreground", help="Stay, and end the fleet with Ctrl-C.")]
UpTimeout = Annotated[float, typer.Option(help="Seconds to wait until everything is ready.")]
