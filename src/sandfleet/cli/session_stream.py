"""A session at this terminal's standard streams: output as it comes, input as it is typed, the exit code."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandfleet_sdk import Attachment, Client

INTERRUPT = 2
READ_BYTES = 64 * 1024
_STDIN = 0
_STREAMS = {1: 1, 2: 2}


def follow(
    client: Client,
    sandbox_id: str,
    session_id: str,
    *,
    gives_input: bool,
    ends_input: bool = True,
    offset: int = 0,
) -> int:
    """Follow a session to its end and return the code that a shell would see.

    Ctrl-C interrupts the program in the sandbox; a second one leaves it running. Without
    `ends_input` the program's input stays open for others.
    """
    interrupts = 0
    with client.sessions.attach(sandbox_id, session_id, offset=offset) as attachment:
        threading.Thread(target=_give, args=(attachment, gives_input, ends_input), daemon=True).start()
        while True:
            try:
                for output in attachment:
                    write_all(_STREAMS[output.stream], output.data)
                break
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts > 1:
                    raise
                client.sessions.kill(sandbox_id, session_id, signal=INTERRUPT)
        code = attachment.exit_code
    return code if code is not None and code >= 0 else code_of_signal(client, sandbox_id, session_id)


def write_all(fd: int, data: bytes) -> None:
    """Write without Python's own buffer: what comes is seen at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _give(attachment: Attachment, gives_input: bool, ends_input: bool) -> None:
    from sandfleet_sdk import SandfleetError

    try:
        while gives_input and (data := os.read(_STDIN, READ_BYTES)):
            attachment.send(data)
        if ends_input:
            attachment.end_input()
    except (OSError, SandfleetError) as error:
        sys.stderr.write(f"sandfleet: no more input: {error}\n")


def code_of_signal(client: Client, sandbox_id: str, session_id: str) -> int:
    """Ask how a session ended that has no exit code of its own."""
    from sandfleet.cli.exit_codes import exit_code

    result = client.commands.result(sandbox_id, session_id).result
    return 1 if result is None else exit_code(result)
