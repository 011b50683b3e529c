"""Has the memory of sandboxes follow their use, where their owners have asked for it.

What it remembers of each from round to round is lost with the leader: the next one waits a quiet time longer
before anything becomes smaller, and what grows grows at once. Whether a size follows the use at all, and
between which bounds, stands in the row; a change is an operation like any other, begun in the leader's term
and over the row that was looked at. So a lock or a change by hand that comes between is not overtaken.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane, NewSize
from sandfleet.controlplane.operations.resize_or_move import begin_resize_or_move
from sandfleet.model.errors import NotFound, SandfleetError, StaleTerm, StaleVersion, StoreUnavailable
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId, operation_id
from sandfleet.model.operation import BACKGROUND_KINDS, Operation
from sandfleet.model.organisation import Caps
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker
from sandfleet.planning.autoscale import Decision, Use, Watched, bounds_of, decide, ladder, refused

ACTOR = "autoscale"
PAGE_MAX = 256
"""So many are looked at in one round; the next round goes on behind them."""
ASKED_AT_ONCE = 16
ANSWERS_WITHIN_S = 2.0
"""A guest that is slower is looked at again the next time."""


@dataclass(slots=True)
class AutoscaleLoop:
    """The leader's loop. `start` runs an operation that was just written."""

    plane: ControlPlane
    start: Callable[[Operation], None]
    _watched: dict[SandboxId, Watched] = field(default_factory=dict)
    _term: int = 0
    _after: SandboxId | None = None
    _seen: set[SandboxId] = field(default_factory=set)

    async def tick(self, *, term: int) -> str:
        """Look at the next page, and begin what is due."""
        if term != self._term:
            self._term, self._after = term, None
            self._watched.clear()  # what was quiet when this replica led before need not have stayed so
            self._seen.clear()
        rows = await self.plane.stores.sizes.autoscaled(after=self._after, limit=PAGE_MAX)
        uses = await self._measured(rows)
        caps = await self._caps({row.organisation_id for row in rows})
        now = self.plane.clock.now()
        decisions = [(row, self._decide(row, uses.get(row.id), caps, now=now)) for row in rows]
        due = [(row, decision) for row, decision in decisions if decision.memory_mib is not None]
        begun = [row.id for row, decision in due if await self._change(row, decision, term=term)]
        self._turn_page(rows)
        return _sentence(len(rows), unknown=len(rows) - len(uses), due=len(due), begun=len(begun))

    def _turn_page(self, rows: Sequence[Sandbox]) -> None:
        """Begin again from the front after the last page, and forget who was on none of them."""
        self._seen.update(row.id for row in rows)
        if len(rows) == PAGE_MAX:
            self._after = rows[-1].id
            return
        self._watched = {name: kept for name, kept in self._watched.items() if name in self._seen}
        self._seen, self._after = set(), None

    async def _measured(self, rows: Sequence[Sandbox]) -> Mapping[SandboxId, Use]:
        """Ask all guests, some at a time; those that could not be asked are left out."""
        if not rows:
            return {}
        workers = {worker.id: worker for worker in await self.plane.stores.workers.list()}
        uses: dict[SandboxId, Use] = {}
        turns = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(row: Sandbox) -> None:
            async with turns:
                use = await self._use(row, workers)
            if use is not None:
                uses[row.id] = use

        async with TaskGroup() as group:
            for row in rows:
                group.create_task(ask(row), name=f"use {row.id}")
        return uses

    async def _use(self, row: Sandbox, workers: Mapping[WorkerId, Worker]) -> Use | None:
        worker = None if row.worker_id is None else workers.get(row.worker_id)
        if worker is None:
            return None
        client = self.plane.worker_client
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                found = await client.memory_use(worker.id, worker.http_url, row.id, epoch=row.epoch)
        except (SandfleetError, TimeoutError):
            return None
        return Use(used_mib=found.mem_usage >> 20, allowed_mib=found.mem_limit >> 20)

    async def _caps(self, organisations: set[OrganisationId]) -> Mapping[OrganisationId, Caps]:
        store = self.plane.stores.organisations
        return {name: (await store.get(name)).caps for name in sorted(organisations)}

    def _decide(
        self, row: Sandbox, use: Use | None, caps: Mapping[OrganisationId, Caps], *, now: datetime
    ) -> Decision:
        settings = self.plane.settings
        size_mib = row.resources.memory_mib
        watched = self._watched.get(row.id)
        if watched is None or watched.size_mib != size_mib:
            watched = Watched(size_mib)
        limits = settings.size_limits
        bounds = bounds_of(row.scaling, limits, caps[row.organisation_id])
        steps = ladder(bounds, block_mib=limits.memory_block_mib)
        decision = decide(steps, use, watched, policy=settings.autoscale_policy, now=now)
        self._watched[row.id] = decision.watched
        return decision

    async def _change(self, row: Sandbox, decision: Decision, *, term: int) -> bool:
        """Begin it, unless something else is done to the sandbox; what refuses it is asked again later."""
        assert decision.memory_mib is not None
        # Read after the row: what begins later changes the row's version.
        still_open = await self.plane.stores.operations.open_for(row.id)
        if any(one.kind not in BACKGROUND_KINDS for one in still_open):
            return False
        wanted = NewSize(decision.memory_mib, row.cpu_percent, is_automatic=True, reason=decision.reason)
        try:
            operation = await begin_resize_or_move(
                self.plane,
                row,
                wanted,
                operation_id=operation_id(secrets.token_bytes(16)),
                actor=ACTOR,
                term=term,
            )
        except (StoreUnavailable, StaleTerm):
            raise
        except (StaleVersion, NotFound):
            return False
        except SandfleetError:
            self._hold_off(row)
            return False
        self._hold_off(row)  # for when its guest refuses; a size that it takes is watched anew
        self.start(operation)
        return True

    def _hold_off(self, row: Sandbox) -> None:
        policy, now = self.plane.settings.autoscale_policy, self.plane.clock.now()
        self._watched[row.id] = refused(self._watched[row.id], policy=policy, at=now)


def _sentence(looked_at: int, *, unknown: int, due: int, begun: int) -> str:
    if not looked_at:
        return "no sandbox's size follows its use"
    said = [f"of {looked_at} sandboxes {begun} begin to change their size"]
    if due > begun:
        said.append(f"{due - begun} cannot now")
    if unknown:
        said.append(f"the use of {unknown} is not known")
    return ", ".join(said)
