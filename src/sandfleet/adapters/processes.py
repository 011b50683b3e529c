"""Running a program of the host to its end, with a bound on time and on what it may say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from sandfleet.model.errors import HypervisorFailed

OUTPUT_SHOWN_MAX = 2000


async def run_program(argv: Sequence[str], *, given: str = "", timeout_s: float = 10.0) -> str:
    """Run `argv` with `given` on stdin and return its stdout; `HypervisorFailed` carries its stderr."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            # Without input there is no pipe: one that the program closes early is an error on uvloop.
            stdin=asyncio.subprocess.PIPE if given else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise HypervisorFailed(f"{argv[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(given.encode() or None)
    except TimeoutError:
        raise HypervisorFailed(f"{argv[0]} did not end within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            # The whole session: what a script has started must not go on after it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        said = err.decode(errors="replace").strip()[:OUTPUT_SHOWN_MAX]
        raise HypervisorFailed(f"{' '.join(argv[:3])} failed with {process.returncode}: {said}")
    return out.decode(errors="replace")
