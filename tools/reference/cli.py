"""The page of commands, from the command line's own description of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from sandfleet.cli.main import app

_INTRODUCTION = """\
<!-- Made by tools/write_reference.py. Do not edit. -->

# Command line

`sandfleet COMMAND --help` says the same.
"""


def cli_page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    sections = [_section(path, command) for path, command in _commands(root, ("sandfleet",))]
    return _INTRODUCTION + "\n" + "\n".join(sections)


# Typer carries its own copy of click, so commands and parameters are taken as what they offer.
def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _commands(child, (*path, name))


def _section(path: tuple[str, ...], command: Any) -> str:
    visible = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [p for p in visible if p.param_type_name == "argument"]
    options = [p for p in visible if p.param_type_name == "option"]
    usage = " ".join([*path, *(_usage(argument) for argument in arguments)])
    lines = [f"## `{usage}`", "", _sentence(command), ""]
    if options:
        lines += ["| option | meaning |", "|---|---|", *(_option(option) for option in options), ""]
    return "\n".join(lines)


def _sentence(command: Any) -> str:
    return " ".join((command.help or "").split("\f")[0].split())


def _usage(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    return f"| {names} | {text} |"
