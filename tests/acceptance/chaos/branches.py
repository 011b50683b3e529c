"""Forks of a sandbox under chaos, live or from a checkpoint: each is looked at once and removed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandfleet_sdk import Sandbox

if TYPE_CHECKING:
    from tests.acceptance.chaos.load import Caller

Judge = Callable[[str, str], None]
"""Takes a fork's id and the effects that it has."""


async def fork_live(caller: Caller, sandbox_id: str, *, command: str, judge: Judge) -> None:
    """Fork the sandbox as it is now."""
    forks = await caller.recorded(
        "fork",
        sandbox_id,
        caller.client.sandboxes.fork(sandbox_id),
        answer=lambda made: str(len(made.sandboxes)),
    )
    for fork in forks.sandboxes if forks is not None else ():
        await _look_and_remove(caller, fork, command=command, judge=judge)


async def fork_from_checkpoint(
    caller: Caller, sandbox_id: str, dice: random.Random, *, command: str, judge: Judge
) -> None:
    """Keep a state of the sandbox, start another from it, and give both up."""
    client, name = caller.client, f"kept-{dice.randrange(10**9)}"
    kept = await caller.recorded(
        "checkpoint", sandbox_id, client.checkpoints.create(sandbox_id, name), answer=lambda made: made.status
    )
    if kept is None:
        return
    fork = await caller.recorded(
        "fork from checkpoint", sandbox_id, client.checkpoints.fork(kept.id), answer=lambda made: made.id
    )
    if fork is not None:
        await _look_and_remove(caller, fork, command=command, judge=judge)
    await caller.recorded(
        "drop checkpoint", sandbox_id, client.checkpoints.delete(sandbox_id, kept.id), answer=lambda _: None
    )


async def _look_and_remove(caller: Caller, fork: Sandbox, *, command: str, judge: Judge) -> None:
    ran = await caller.recorded(
        "look at fork",
        fork.id,
        caller.client.commands.run(fork.id, f"hostname; {command}"),
        answer=lambda result: f"exit {result.exit_code}",
    )
    if ran is not None:
        name, _, text = ran.stdout.partition("\n")
        if name != fork.id:
            caller.is_wrong(f"{fork.id}: a fork that calls itself {name!r}")
        judge(fork.id, text)
    await caller.recorded(
        "remove fork", fork.id, caller.client.sandboxes.kill(fork.id), answer=lambda _: None
    )
