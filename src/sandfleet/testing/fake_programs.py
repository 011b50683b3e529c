"""What runs inside a fake guest: a program is a coroutine, and a very small shell is shipped."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from sandfleet.model.errors import ExecFailed
from sandfleet.ports.clock import Clock

STDOUT, STDERR = 1, 2


class Signalled(Exception):
    """The process ended itself by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@dataclass(frozen=True, slots=True)
class FakeProcess:
    """What a program sees."""

    argv: Sequence[str]
    envs: Mapping[str, str]
    cwd: str
    clock: Clock
    write: Callable[[int, bytes], Awaitable[None]]
    stdin: asyncio.Queue[bytes]
    """Pieces of stdin; an empty one is its end."""


Program = Callable[[FakeProcess], Awaitable[int]]


async def small_shell(process: FakeProcess) -> int:
    """Run `argv`, or the commands of `sh -c`, as far as this shell knows them.

    Known: `echo`, `printf` (a plain text), `printenv`, `pwd`, `cat`, `sleep`, `true`,
    `id` (silent), `false`, `exit N`, `kill -N $$`; `;` between commands and `>&2` after one.
    """
    if list(process.argv[:2]) in (["/bin/sh", "-c"], ["sh", "-c"]):
        code = 0
        for line in process.argv[2].split(";"):
            words = [_unquoted(word) for word in re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line)]
            if words[:1] == ["exit"]:
                return int(words[1])
            code = await _command(process, words)
        return code
    return await _command(process, list(process.argv))


class HeldShell:
    """`small_shell`, and `held`: a command that says `begun`, waits until it is let go, and says `ended`."""

    def __init__(self) -> None:
        self._may_end = asyncio.Event()

    def let_go(self) -> None:
        """Let every `held` end, now and later."""
        self._may_end.set()

    async def __call__(self, process: FakeProcess) -> int:
        """Run it."""
        if process.argv[-1] != "held":
            return await small_shell(process)
        await process.write(STDOUT, b"begun\n")
        await self._may_end.wait()
        await process.write(STDOUT, b"ended\n")
        return 0


async def _command(process: FakeProcess, words: list[str]) -> int:
    stream = STDERR if words[-1:] == [">&2"] else STDOUT
    words = words[:-1] if stream is STDERR else words
    name, arguments = words[0], words[1:]
    if name in ("true", "false", "id"):
        return int(name == "false")
    if name == "sleep":
        await process.clock.sleep(float(arguments[0]))
        return 0
    if name == "kill":
        raise Signalled(int(arguments[0].lstrip("-")))
    if name == "cat":
        while chunk := await process.stdin.get():
            await process.write(stream, chunk)
        return 0
    await process.write(stream, _text(process, name, arguments))
    return 0


def _text(process: FakeProcess, name: str, arguments: list[str]) -> bytes:
    if name == "echo":
        return (" ".join(arguments) + "\n").encode()
    if name == "printf":
        return arguments[0].encode().decode("unicode_escape").encode("latin-1", "replace")
    if name == "printenv":
        return (process.envs.get(arguments[0], "") + "\n").encode()
    if name == "pwd":
        return (process.cwd + "\n").encode()
    raise ExecFailed(f"{name}: no such program")


def _unquoted(word: str) -> str:
    return word[1:-1] if word[0] in "'\"" and word[-1] == word[0] and len(word) > 1 else word
