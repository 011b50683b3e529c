"""The page of commands, from the command line's own description of itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer.main
from sandfleet.cli.main import app

_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Command line

`sandfleet COMMAND --help` says the same. Commands on sandboxes, files and keys talk HTTP to the fleet that
`OPENCOMPUTER_API_URL` and `OPENCOMPUTER_API_KEY` name, else to the one that `sandfleet up` started here.
"""


def cli_page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    sections = [_section(path, command) for path, command in _commands(root, ("sandfleet",))]
    return _INTRODUCTION + "\n" + "\n".join(sections)


def _commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command, info_name=path[-1])
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _commands(child, (*path, name))


def _section(path: tuple[str, ...], command: click.Command) -> str:
    visible = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [p for p in visible if isinstance(p, click.Argument)]
    options = [p for p in visible if isinstance(p, click.Option)]
    usage = " ".join([*path, *(_usage(argument) for argument in arguments)])
    lines = [f"## `{usage}`", "", _sentence(command), ""]
    if options:
        lines += ["| option | meaning |", "|---|---|", *(_option(option) for option in options), ""]
    return "\n".join(lines)


def _sentence(command: click.Command) -> str:
    return " ".join((command.help or "").split("\f")[0].split())


def _usage(argument: click.Argument) -> str:
    name = (argument.metavar or argument.name or "").upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    return f"| {names} | {text} |"
