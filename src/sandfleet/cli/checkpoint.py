"""`checkpoint create`, `ls`, `restore`, `rm`: kept states of a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import age, say, show_json, show_table, size, transfer_progress, waiting

if TYPE_CHECKING:
    from sandfleet_sdk import Checkpoint

app = typer.Typer(help="Kept states of a sandbox, to go back to or to fork.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Its name or id.")]
READY_WAIT_S = 600.0


@app.command("create")
def create(
    sandbox: SandboxName,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is stored.")] = True,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Keep memory and disk of this instant; the sandbox goes on."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    bar = transfer_progress("storing the checkpoint", total_bytes=None, is_wanted=wait and not as_json)
    with connect(url, api_key) as client, bar as (progress, task):
        made = client.checkpoints.create(
            resolve(client, sandbox),
            name,
            wait_s=READY_WAIT_S if wait else 0.0,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        show_json(made.raw)
    else:
        say(made.id)


@app.command("ls")
def ls(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the checkpoints, newest first."""
    from sandfleet.adapters.clock import SystemClock
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        found = client.checkpoints.list(resolve(client, sandbox))
    if as_json:
        show_json([one.raw for one in found])
        return
    now = SystemClock().now()
    rows = [
        (one.id, one.name, one.status, size(one.size_bytes), age(one.created_at, now=now), one.error)
        for one in found
    ]
    show_table(("ID", "NAME", "STATUS", "SIZE", "AGE", "ERROR"), rows, empty="no checkpoints")


@app.command("restore")
def restore(
    sandbox: SandboxName, name: Name, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Bring the sandbox back to a checkpoint; what came after it is lost."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("restoring it"):
        sandbox_id = resolve(client, sandbox)
        found = find_checkpoint(client.checkpoints.list(sandbox_id), name)
        restored = client.checkpoints.restore(sandbox_id, found.id)
    if as_json:
        show_json(restored.raw)
    else:
        say(restored.id)


@app.command("rm")
def rm(
    sandbox: SandboxName, name: Name, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a checkpoint; sandboxes made from it live on."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        sandbox_id = resolve(client, sandbox)
        found = find_checkpoint(client.checkpoints.list(sandbox_id), name)
        client.checkpoints.delete(sandbox_id, found.id)
    if as_json:
        show_json({"deleted": found.id})
    else:
        say(found.id)


def find_checkpoint(checkpoints: Sequence[Checkpoint], name: str) -> Checkpoint:
    """Return the one of that id or name; a failed one only if there is no other."""
    from sandfleet.cli.errors import CommandFailed

    fitting = [one for one in checkpoints if name in (one.id, one.name)]
    if not fitting:
        raise CommandFailed(f"the sandbox has no checkpoint {name}: see `sandfleet checkpoint ls`")
    return next((one for one in fitting if one.status != "failed"), fitting[0])
