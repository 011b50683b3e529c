"""Clients: they ask under the same key until they are answered, and remember what they were told."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandfleet.model.errors import SandfleetError
from sandfleet.model.ids import SandboxId
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.simulation.replica import Request, Response

if TYPE_CHECKING:
    from sandfleet.testing.simulation.world import World

PATIENCE_S = 20.0
TWICE_SHARE = 0.1
WAKE_SHARE = 0.6
REFUSALS_MAX = 2
"""How often a refusal that may pass (no capacity, a guest that does not answer) is asked about again."""
_PASSING = frozenset({"store_unavailable", "not_ready", "shutting_down"})
"""Refusals that say nothing about the request: they are asked about until there is an answer."""
SANDBOX = "/api/sandboxes/{id}"
_VERBS = (
    "write",
    "write",
    "write",
    "hibernate",
    "wake",
    "checkpoint",
    "restore",
    "scale",
    "reboot",
    "kill",
    "fork",
    "migrate",
    "migrate",
)


@dataclass
class Known:
    """What the clients know of one sandbox."""

    id: SandboxId
    written: int = 0
    """The most that a write was answered with."""
    is_killed: bool = False
    is_restored: bool = False
    """Whether somebody asked to go back to a checkpoint: from then on writes may be missing."""
    checkpoints: list[str] = field(default_factory=list)


class Client:
    """One user with some work to do."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._dice: random.Random = world.dice(name)
        self._keys = 0
        self._known = world.known

    async def run(self) -> None:
        """Do the work."""
        await self._create()
        for _ in range(self._world.profile.actions):
            await asyncio.sleep(self._dice.expovariate(0.7))
            alive = [one for one in self._known if not one.is_killed]
            if not alive or self._dice.random() < 0.15:
                await self._create()
                continue
            known = self._dice.choice(alive)
            verb = self._dice.choice(_VERBS)
            if self._world.profile.has_many_moves and self._dice.random() < 0.4:
                verb = "migrate"
            if self._world.profile.has_automatic_sizes and self._dice.random() < 0.4:
                verb = self._dice.choice(("follow", "follow", "lock"))
            if self._is_asleep(known) and self._dice.random() < WAKE_SHARE:
                verb = "wake"
            await getattr(self, "_" + verb)(known)

    def _is_asleep(self, known: Known) -> bool:
        row = self._world.database.sandboxes.get(known.id)
        return row is not None and row.state is SandboxState.HIBERNATED

    # --- what it asks for

    async def _create(self) -> None:
        key = self._key()
        body = {
            "timeout": self._dice.choice((0, 0, 3, 8)),
            "memoryMB": self._dice.choice((512, 1024, 2048)),
            "metadata": {"key": key},
        }
        answer = await self.ask(Request("POST", "/api/sandboxes", body=body, key=key))
        if answer.status == 201:
            self._learn(answer.body["sandboxID"])

    async def _kill(self, known: Known) -> None:
        answer = await self._verb(known, "DELETE", SANDBOX)
        if answer.status == 204:
            known.is_killed = True

    async def _hibernate(self, known: Known) -> None:
        await self._verb(known, "POST", SANDBOX + "/hibernate")

    async def _wake(self, known: Known) -> None:
        await self._verb(known, "POST", SANDBOX + "/wake")

    async def _reboot(self, known: Known) -> None:
        await self._verb(known, "POST", SANDBOX + self._dice.choice(("/reboot", "/power-cycle")))

    async def _scale(self, known: Known) -> None:
        body = {"memoryMB": self._dice.choice((512, 1024, 2048))}
        await self._verb(known, "POST", SANDBOX + "/scale", body=body)

    async def _follow(self, known: Known) -> None:
        """Have its size follow its use, or not."""
        body: dict[str, Any] = {"enabled": self._dice.random() < 0.85}
        if self._dice.random() < 0.7:
            body["maxMemoryMB"] = self._dice.choice((1024, 2048))
        await self._verb(known, "PUT", SANDBOX + "/autoscale", body=body)

    async def _lock(self, known: Known) -> None:
        body = {"locked": self._dice.random() < 0.4}
        await self._verb(known, "PUT", SANDBOX + "/scaling-lock", body=body)

    async def _migrate(self, known: Known) -> None:
        target = self._dice.choice(("*", *self._world.hosts))
        await self._verb(known, "POST", SANDBOX + "/migrate", body={"targetWorker": target})

    async def _checkpoint(self, known: Known) -> None:
        body = {"name": f"cp-{self._keys}-{self._name}"}
        answer = await self._verb(known, "POST", SANDBOX + "/checkpoints", body=body)
        if answer.status == 201:
            known.checkpoints.append(answer.body["id"])

    async def _restore(self, known: Known) -> None:
        if not known.checkpoints:
            return await self._checkpoint(known)
        known.is_restored = True
        chosen = self._dice.choice(known.checkpoints)
        await self._verb(known, "POST", SANDBOX + "/checkpoints/{cp}/restore", cp=chosen)

    async def _fork(self, known: Known) -> None:
        answer = await self._verb(known, "POST", SANDBOX + "/fork", body={"metadata": {"key": self._key()}})
        if answer.status == 201:
            for one in answer.body["sandboxes"]:
                self._learn(one["sandboxID"])

    async def _write(self, known: Known) -> None:
        """Write in the guest where the row says that it is; what was answered may never be missing again."""
        row = self._world.database.sandboxes.get(known.id)
        if row is None or row.state is not SandboxState.RUNNING or row.worker_id is None:
            return
        before = known.written
        try:
            written = await self._world.write(row.worker_id, known.id, row.epoch)
        except (OSError, TimeoutError, SandfleetError):
            return
        if not known.is_restored and not self._is_recovered(known):
            self._world.findings.require(
                written > before, f"{known.id}: {before} writes were answered, {written} are there"
            )
            known.written = max(known.written, written)

    def _is_recovered(self, known: Known) -> bool:
        """Whether its VM was lost and it went back to what was saved, which its log says."""
        log = self._world.database.transitions
        return any(one.event in ("recover", "recalled") and one.sandbox_id == known.id for one in log)

    def _learn(self, sandbox_id: str) -> None:
        if all(one.id != sandbox_id for one in self._known):
            self._known.append(Known(SandboxId(sandbox_id)))

    # --- how it asks

    def _key(self) -> str:
        self._keys += 1
        return f"{self._name}-{self._keys}"

    async def _verb(
        self, known: Known, method: str, route: str, *, body: dict[str, Any] | None = None, cp: str = ""
    ) -> Response:
        values = {"id": known.id, "cp": cp} if cp else {"id": known.id}
        key = self._key() if method == "POST" else None
        return await self.ask(Request(method, route, values, body, key))

    async def ask(self, request: Request) -> Response:
        """Ask until there is an answer: the same key every time, now and then two at once."""
        world, trace = self._world, self._world.trace
        trace.add(
            self._name, f"asks {request.method} {request.path} {request.key or ''} {request.body or ''}"
        )
        refusals = 0
        while True:
            for answer in await self._tries(request):
                world.answered(request, answer)
                code = (answer.body or {}).get("code")
                refusals += answer.status >= 500 and code not in _PASSING
                if answer.status < 500 or refusals > REFUSALS_MAX:
                    trace.add(self._name, f"is told {answer.status} {code or ''} to {request.key or 'it'}")
                    return answer
            await asyncio.sleep(0.2 + 0.8 * self._dice.random())

    async def _tries(self, request: Request) -> list[Response]:
        tries = [self._try(request)]
        if request.key is not None and self._dice.random() < TWICE_SHARE:
            tries.append(self._try(request))
        outcomes = await asyncio.gather(*tries)
        return [one for one in outcomes if one is not None]

    async def _try(self, request: Request) -> Response | None:
        world = self._world
        serving = [replica for replica in world.replicas if replica.is_serving]
        if not serving:
            return None
        replica = self._dice.choice(serving)
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer: Response = await world.network.post(
                    None, world.profile.http, lambda: replica.serve(request), patience_s=3.0
                )
        except (OSError, TimeoutError):
            return None
        return answer
