"""Runs the host programs of a build: each with a bound, and with its last words in the error."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandfleet.images.errors import ImageBuildFailed

Progress = Callable[[str], None]
"""Told one line of what the build does now."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> str:
    """Run a program and return what it wrote; `ImageBuildFailed` when it fails, is missing or too slow."""
    words = [str(word) for word in argv]
    try:
        program = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ImageBuildFailed(f"{words[0]} is not installed: run `make setup`") from error
    with program:
        output = _output(program, stdin=stdin, timeout_s=timeout_s).decode(errors="replace")
    if program.returncode != 0:
        last_words = "\n".join(output.splitlines()[-15:])
        raise ImageBuildFailed(f"{words[0]} failed with exit code {program.returncode}:\n{last_words}")
    return output


def remove_tree(path: Path) -> None:
    """Remove a directory and what is below it, but nothing that is mounted there."""
    run(["rm", "-rf", "--one-file-system", path], timeout_s=300)


def _output(program: subprocess.Popen[bytes], *, stdin: bytes, timeout_s: float) -> bytes:
    try:
        return program.communicate(stdin, timeout=timeout_s)[0]
    except BaseException as error:
        # All that the program started goes with it, also when the build is interrupted by hand.
        os.killpg(program.pid, signal.SIGKILL)
        if isinstance(error, subprocess.TimeoutExpired):
            raise ImageBuildFailed(f"{program.args!r} took longer than {timeout_s:.0f} s") from error
        raise
