"""The life of one sandbox in the hands of one client, with a rival that asks and repeats beside it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.acceptance.chaos.branches import fork_from_checkpoint, fork_live

from sandfleet_sdk import SandfleetError

if TYPE_CHECKING:
    from tests.acceptance.chaos.load import Caller

EFFECTS = "/workspace/effects"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
STREAM_LINES = 30
_ACTIONS = ("exec",) * 5 + ("file",) * 2 + ("sleep",) * 2 + ("stream", "look", "branch")
_READ_EFFECTS = f"cat {EFFECTS} 2> /dev/null; true"


class Life:
    """Create, work, delete. Each command leaves a line in a file that only grows: counted at the end."""

    def __init__(
        self, caller: Caller, dice: random.Random, *, key: str, stop: asyncio.Event, branches: int
    ) -> None:
        self._caller = caller
        self._client = caller.client
        self._dice = dice
        self._key = key
        self._stop = stop
        self._id = ""
        self._done: list[int] = []
        self._unsure: set[int] = set()
        self._number = 0
        self._resident: str | None = None
        self._boot_id = ""
        self._at = "not begun"
        self._branches_left = branches

    def describe(self) -> str:
        """Return where it stands."""
        return f"sandbox {self._id or 'not yet'}, {self._at}"

    async def run(self, *, actions: int) -> None:
        """Live it through: so many actions, or fewer when all is to stop."""
        if not await self._create():
            return
        await self._settle_in()
        for _ in range(actions):
            action = self._dice.choice(_ACTIONS)
            self._at = action
            await getattr(self, f"_{action}")()
            if self._stop.is_set():
                break
        await self._audit()
        await self._delete()

    async def _create(self) -> bool:
        self._at = "create"
        copies = 2 if self._dice.random() < 0.3 else 1
        made = await asyncio.gather(*(self._create_once() for _ in range(copies)))
        ids = {one for one in made if one}
        if len(ids) > 1:
            self._caller.is_wrong(f"one key made {ids}")
        self._id = min(ids, default="")
        return bool(ids)

    async def _create_once(self) -> str | None:
        sandbox = await self._caller.recorded(
            "create",
            self._key,
            self._client.sandboxes.create(timeout_s=0, idempotency_key=self._key),
            answer=lambda made: made.id,
        )
        return sandbox.id if sandbox else None

    async def _settle_in(self) -> None:
        """Start a process that stays, and note which kernel runs."""
        self._at = "settle in"
        started = await self._ask(f"sleep 100000 > /dev/null 2>&1 & echo $!; cat {BOOT_ID}")
        if started is not None:
            self._resident, self._boot_id = started.split()

    async def _ask(self, command: str) -> str | None:
        """Run a command that changes nothing twice; None if it failed, which is reported."""
        ran = await self._caller.recorded(
            "touch",
            self._id,
            self._client.commands.run(self._id, command),
            answer=lambda result: f"exit {result.exit_code}",
        )
        return ran.stdout if ran is not None else None

    async def _exec(self) -> None:
        self._number += 1
        number = self._number
        pause = self._dice.choice((0, 0, 0, 1, 3))
        command = f"sleep {pause}; echo {number} >> {EFFECTS}; echo did {number}"
        result = await self._caller.recorded(
            "touch",
            self._id,
            self._client.commands.run(self._id, command, timeout_s=60),
            answer=lambda ran: f"exit {ran.exit_code}",
        )
        if result is None:
            self._unsure.add(number)
            return
        self._done.append(number)
        if result.exit_code != 0 or result.stdout != f"did {number}\n":
            self._caller.is_wrong(f"{self._id}: command {number} answered {result}")

    async def _file(self) -> None:
        content = self._dice.randbytes(self._dice.choice((10, 5_000, 400_000)))
        path = f"/workspace/file-{self._dice.randrange(3)}"
        wrote = await self._caller.recorded(
            "touch", self._id, self._client.files.write(self._id, path, content), answer=lambda _: "written"
        )
        del wrote
        read = await self._caller.recorded(
            "touch", self._id, self._client.files.read(self._id, path), answer=lambda _: "read"
        )
        if read is not None and read != content:
            self._caller.is_wrong(f"{self._id}: {path} has {len(read)} bytes that were not written")

    async def _sleep(self) -> None:
        rival = self._exec if self._dice.random() < 0.3 else self._look
        await asyncio.gather(self._hibernate(), rival())
        if self._dice.random() < 0.5:
            await asyncio.gather(self._wake(), self._look())
        else:
            await self._exec()

    async def _hibernate(self) -> None:
        await self._caller.recorded(
            "hibernate",
            self._id,
            self._client.sandboxes.hibernate(self._id),
            answer=lambda saved: saved.status,
        )

    async def _wake(self) -> None:
        await self._caller.recorded(
            "wake",
            self._id,
            self._client.sandboxes.wake(self._id),
            answer=lambda woken: woken.status,
            # The answer to the first attempt may be lost when the rival's wake was joined.
            allowed=("not_hibernated",),
        )

    async def _look(self) -> None:
        await asyncio.sleep(self._dice.uniform(0, 0.5))
        await self._caller.recorded(
            "get", self._id, self._client.sandboxes.get(self._id), answer=lambda seen: seen.status
        )

    async def _stream(self) -> None:
        """Follow a long output, across whatever breaks: every byte once and in order."""
        command = f"for n in $(seq {STREAM_LINES}); do echo line $n; sleep 0.2; done"
        self._caller.findings.calls["stream"] += 1
        begun = asyncio.get_running_loop().time()
        received = bytearray()
        try:
            session = await self._client.sessions.start(self._id, "/bin/sh", args=["-c", command])
            async with self._client.sessions.attach(self._id, session.id) as attached:
                async for output in attached:
                    received += output.data
                code = attached.exit_code
        except SandfleetError as error:
            self._caller.failed("stream", self._id, error, begun)
            return
        expected = "".join(f"line {n}\n" for n in range(1, STREAM_LINES + 1)).encode()
        if bytes(received) != expected or code != 0:
            self._caller.is_wrong(
                f"{self._id}: a stream ended with {code} after {len(received)} of {len(expected)} bytes"
            )

    async def _branch(self) -> None:
        """Fork it, now and then from a checkpoint: a few times, for a saved state costs seconds of a core."""
        await self._exec()  # it must run
        if self._branches_left == 0:
            return
        self._branches_left -= 1
        if self._dice.random() < 0.5:
            await fork_live(self._caller, self._id, command=_READ_EFFECTS, judge=self._judge_effects)
        else:
            await fork_from_checkpoint(
                self._caller, self._id, self._dice, command=_READ_EFFECTS, judge=self._judge_effects
            )

    async def _audit(self) -> None:
        """Count what the commands have left: each acknowledged one once, and none twice."""
        self._at = "audit"
        text = await self._ask(_READ_EFFECTS)
        if text is None:
            return
        await self._look_for_resident()
        self._judge_effects(self._id, text)

    def _judge_effects(self, sandbox_id: str, text: str) -> None:
        """Compare what the commands have left, here or in a fork, with what was acknowledged."""
        effects = [int(line) for line in text.split()]
        doubled = sorted({number for number in effects if effects.count(number) > 1})
        lost = sorted(set(self._done) - set(effects))
        strange = sorted(set(effects) - set(self._done) - self._unsure)
        for what, numbers in (("doubled", doubled), ("lost", lost), ("never asked for", strange)):
            if numbers:
                self._caller.is_wrong(f"{sandbox_id}: effects {what}: {numbers}")

    async def _look_for_resident(self) -> None:
        """Find the same kernel and process as in the beginning: nothing was booted anew in between."""
        if self._resident is None:
            return
        now = await self._ask(f"cat {BOOT_ID}; cat /proc/{self._resident}/comm")
        if now is not None and now.split() != [self._boot_id, "sleep"]:
            self._caller.is_wrong(f"{self._id}: process {self._resident} of {self._boot_id} is gone: {now!r}")

    async def _delete(self) -> None:
        self._at = "delete"
        racing = [self._delete_once()]
        if self._dice.random() < 0.3:
            racing.append(self._look())
        await asyncio.gather(*racing)
        seen = await self._caller.recorded(
            "get", self._id, self._client.sandboxes.get(self._id), answer=lambda seen: seen.status
        )
        if seen is not None and seen.status != "stopped":
            self._caller.is_wrong(f"{self._id}: {seen.status} after it was killed")

    async def _delete_once(self) -> None:
        await self._caller.recorded(
            "delete", self._id, self._client.sandboxes.kill(self._id), answer=lambda _: None
        )
