"""The command line `sandfleet`: every command imports what it needs only when it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sandfleet import __version__
from sandfleet.cli import (
    attached,
    checkpoint,
    completion,
    copy,
    demonstration,
    events,
    execute,
    files,
    fleet,
    image,
    key,
    local_fleet,
    migrate,
    options,
    org,
    placement,
    plan,
    preview,
    processes,
    rollout,
    sandboxes,
    saved,
    scaling,
    sessions,
    simulate,
    worker,
)

app = typer.Typer(
    name="sandfleet",
    help="Real computers for AI agents: create, use and end sandboxes; run the fleet that hosts them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the rich help costs a quarter of a second at every `--help`
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up", short_help="Start this machine's fleet.")(local_fleet.up)
app.command("down", short_help="End its processes; sandboxes run on.")(local_fleet.down)
app.command("status", short_help="Show what runs, where, and with which key.")(local_fleet.status)
app.command("doctor", short_help="Check whether this machine can run sandboxes.")(local_fleet.doctor)
app.command("demo", short_help="Take a tour that checks itself.")(demonstration.demo)
app.command("create", short_help="Create a sandbox.")(sandboxes.create)
app.command("ls", short_help="List sandboxes.")(sandboxes.ls)
app.command(
    "exec",
    short_help="Run a command in a sandbox.",
    cls=execute.ExecCommand,
    context_settings=options.EXECS,
)(execute.execute)
app.command("shell", short_help="Open a shell in a sandbox.")(sessions.shell)
app.command("attach", short_help="Attach to a session or terminal.")(sessions.attach)
app.command("sessions", short_help="List the sessions of a sandbox.")(sessions.sessions)
app.command("cp", short_help="Copy files in or out.")(copy.cp)
app.command("rm", short_help="End sandboxes for good.")(sandboxes.rm)
app.command("hibernate", short_help="Save a sandbox and free its place.")(saved.hibernate)
app.command("wake", short_help="Bring a hibernated sandbox back.")(saved.wake)
app.command("fork", short_help="Start others from a sandbox or a checkpoint.")(saved.fork)
app.command("timeout", short_help="Set after how many idle seconds one ends.")(sandboxes.timeout)
app.command("events", short_help="Show what happened to a sandbox.")(events.events)
app.command("placement", short_help="Show why a sandbox is where it is.")(placement.placement)
app.command("stats", short_help="Show what a sandbox uses now.")(attached.stats)
app.command("tags", short_help="Show or replace the tags of a sandbox.")(attached.tags)
app.command("url", short_help="Print a URL that reads or writes one file.")(attached.signed_url)
app.command("scale", short_help="Change memory and CPU of a running sandbox.")(attached.scale)
app.command("autoscale", short_help="Have the memory of a sandbox follow its use.")(scaling.autoscale)
app.command("lock", short_help="Let nobody change the size of a sandbox.")(scaling.lock)
app.command("unlock", short_help="Let the size be changed again.")(scaling.unlock)
app.command("migrate", short_help="Move a sandbox to another worker.")(migrate.migrate)
app.command("reboot", short_help="Restart the guest of a sandbox.")(attached.reboot)
app.command("power-cycle", short_help="Replace the VM's process of a sandbox.")(attached.power_cycle)
app.add_typer(checkpoint.app, name="checkpoint", short_help="Keep, restore and delete states of one.")
app.add_typer(preview.app, name="preview", short_help="Show guest ports to the outside.")
app.add_typer(files.app, name="files", short_help="List, make and remove files of a sandbox.")
app.add_typer(org.app, name="org", short_help="Make, show and limit organisations.")
app.add_typer(key.app, name="key", short_help="Make, list and revoke API keys.")
app.add_typer(image.app, name="image", short_help="Build and list guest images.")
app.add_typer(fleet.app, name="fleet", short_help="See what the fleet decided, and why.")
app.add_typer(rollout.app, name="rollout", short_help="Bring a new version to all workers.")
app.command("plan", short_help="Show what the planners would do; nothing is done.")(plan.plan)
app.command("simulate", short_help="Try a load on the planners, without hosts.")(simulate.simulate)
app.command("server", short_help="Run one replica of the control plane.")(processes.server)
app.add_typer(worker.app, name="worker", short_help="Run this host's worker; list and forget workers.")
app.command("completion", short_help="Print a shell's completion script.")(completion.completion)


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"sandfleet {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Real computers for AI agents: create, use and end sandboxes; run the fleet that hosts them."""


def main() -> None:
    """Run the command line; errors are a line and a hint, never a traceback for what is foreseen."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone (`sandfleet ls | head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if not _is_explained(error):
            raise
        sys.exit(1)


def _is_explained(error: Exception) -> bool:
    from sandfleet.cli.errors import CommandFailed, exit_code_of, report
    from sandfleet.local.foreseen import FORESEEN
    from sandfleet_sdk import SandfleetError

    if not isinstance(error, (CommandFailed, SandfleetError, *FORESEEN)):
        return False
    report(error, as_json="--json" in sys.argv)
    sys.exit(exit_code_of(error))
