"""`worker`: run the worker of this host; `worker ls`, `drain`, `evict`, `forget` …: the fleet's workers."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.cli.drain import drain, evict, undrain
from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table
from sandfleet.cli.processes import SettingsFile, run_worker_of

app = typer.Typer(help="Run the worker of this host, or look after the fleet's workers.")


app.command("drain")(drain)
app.command("undrain")(undrain)
app.command("evict")(evict)


@app.callback(invoke_without_command=True)
def worker(context: typer.Context, *, settings: SettingsFile = None) -> None:
    """Run the worker of this host until SIGTERM; its sandboxes run on. With a command: see that."""
    if context.invoked_subcommand is None:
        run_worker_of(settings)


@app.command("ls")
def ls(*, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the workers. `silent` and `unreachable` say nothing about their sandboxes."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        workers = client.fleet.workers()
    if as_json:
        show_json([dict(worker.raw) for worker in workers])
        return
    rows = [
        (
            worker.id,
            f"{worker.state}, draining" if worker.draining else worker.state,
            worker.region,
            worker.sandboxes,
            f"{worker.memory_committed_mib} of {worker.memory_total_mib}",
            worker.raw.get("last_seen_at"),
        )
        for worker in workers
    ]
    show_table(("ID", "STATE", "REGION", "SANDBOXES", "MIB PROMISED", "LAST SEEN"), rows, empty="no workers")
    for worker in workers:
        if reason := worker.raw.get("state_reason"):
            by = worker.raw.get("state_deadline_at")
            say(f"{worker.id}: {reason}" + (f" (at {by})" if by else ""))


@app.command("forget")
def forget(
    worker_id: Annotated[str, typer.Argument(metavar="WORKER", help="Its id.")],
    *,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost", help="You know that its host is no more: what ran there ends in `error` for good."
        ),
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Take a worker off the fleet for ever. Without --lost only an empty one. Needs the scope `admin`."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        client.fleet.forget_worker(worker_id, lost=lost)
    if as_json:
        show_json({"workerID": worker_id, "state": "gone"})
    else:
        say(f"{worker_id} is gone.")
