"""`completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sandfleet.cli.output import say


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the completion script: `eval "$(sandfleet completion bash)"` in ~/.bashrc."""
    from typer._completion_shared import get_completion_script

    say(get_completion_script(prog_name="sandfleet", complete_var="_SANDFLEET_COMPLETE", shell=shell.value))
