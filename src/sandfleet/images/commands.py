"""Runs the host programs of a build: each with a bound, and with its last words in the error."""

from __future__ import annotations

import os
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
        done = subprocess.run(
            words,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageBuildFailed(f"{words[0]} is not installed: run `make setup`") from error
    except subprocess.TimeoutExpired as error:
        raise ImageBuildFailed(f"{words[0]} took longer than {timeout_s:.0f} s") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        last_words = "\n".join(output.splitlines()[-15:])
        raise ImageBuildFailed(f"{words[0]} failed with exit code {done.returncode}:\n{last_words}")
    return output
