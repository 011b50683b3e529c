"""Sees whether the workers of a version can do their work: each runs one sandbox of the fleet's own.

Rule 1: the trial is written down before its sandbox is, so whoever leads next goes on with that very one.
Rule 2: the sandbox is one like all others: row, place, operation, and it is killed as they are.
Rule 3: only the worker's own answer to a command proves something, and only a start or a command that
failed there speaks against it. What went elsewhere, or was ended by somebody, was no trial.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import msgspec

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.loops.fleet_reading import TEMPLATE, each
from sandfleet.controlplane.operations.create import new_sandbox
from sandfleet.model.errors import Conflict, NotFound, SandfleetError, StaleTerm, StoreUnavailable
from sandfleet.model.ids import FLEET_ORGANISATION, OperationId, SandboxId, exec_id, operation_id, sandbox_id
from sandfleet.model.operation import Operation
from sandfleet.model.organisation import Caps, Organisation, Quotas
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementRequest, place
from sandfleet.planning.queue import Waiting
from sandfleet.ports.data_plane import DataPlaneRequest
from sandfleet.ports.rollout_store import Proof
from sandfleet.ports.stores import Placed
from sandfleet.wire.worker_messages import EPOCH_HEADER, EXEC_ID_HEADER

ACTOR = "trial"
PAUSE = timedelta(seconds=10)
"""Between two trials of one worker."""
COMMAND_S = 20
_SILENCE_S = COMMAND_S + 5.0
_ANSWER_BYTES_MAX = 64 * 1024
_IDLE_S = 900
"""Should everybody forget the sandbox, it ends by itself."""


@dataclass(frozen=True, slots=True)
class TrialLoop:
    """The leader's loop. `start` runs an operation that was just written, `kill` ends a sandbox."""

    plane: ControlPlane
    start: Callable[[Operation, Sandbox], None]
    kill: Callable[[Sandbox], Awaitable[object]]

    async def tick(self, *, term: int) -> str:
        """Go on with the trial of each worker whose version is wanted and that has not proven itself."""
        stored = await self.plane.stores.rollouts.current()
        if stored is None:
            return "no version is on trial"
        wanted = stored.rollout.target if stored.rollout.is_under_way else None
        proofs = await self.plane.stores.rollouts.proofs()
        workers = {one.id: one for one in await self.plane.stores.workers.list()}
        on_trial = {
            worker.id: proofs.get(worker.id) or Proof(worker.id, worker.worker_version)
            for worker in workers.values()
            if _may_be_tried(worker, wanted)
        }
        on_trial = {name: proof for name, proof in on_trial.items() if proof.proven_at is None}
        for name, proof in proofs.items():
            if proof.sandbox_id is not None and name not in on_trial:
                await self._break_off(proof, term)
        if not on_trial:
            return (
                "no version is on trial"
                if wanted is None
                else f"every worker of version {wanted} has run one"
            )
        trying = [workers[name] for name in sorted(on_trial)]
        return "; ".join(await each(trying, lambda one: self._go_on(one, on_trial[one.id], term)))

    async def _break_off(self, proof: Proof, term: int) -> None:
        """End a trial for which nobody waits any more: its worker is drained, or the roll-out is over."""
        if proof.sandbox_id is None:
            return
        with suppress(NotFound):  # the trial was written down, and its sandbox was not
            await self.kill(await self.plane.stores.sandboxes.get_any(proof.sandbox_id))
        ended = replace(proof, sandbox_id=None, said="broken off")
        await self.plane.stores.rollouts.save_proof(ended, term=term)

    async def _go_on(self, worker: Worker, proof: Proof, term: int) -> str:
        try:
            after, said = await self._next(worker, proof, term)
        except (StaleTerm, StoreUnavailable):
            raise
        except SandfleetError as error:
            after, said = proof, error.message
        if after != proof:
            await self.plane.stores.rollouts.save_proof(replace(after, said=said), term=term)
        return f"{worker.id}: {said}"

    async def _next(self, worker: Worker, proof: Proof, term: int) -> tuple[Proof, str]:
        """Take one step; return what is to be known of it, and what is said."""
        if proof.sandbox_id is None:
            return await self._begin(worker, proof, term)
        try:
            row = await self.plane.stores.sandboxes.get_any(proof.sandbox_id)
        except NotFound:
            return proof, await self._create(worker, proof.sandbox_id)
        if row.state is SandboxState.CREATING:
            return proof, f"{row.id} starts"
        ended = replace(proof, sandbox_id=None)
        if row.state is not SandboxState.RUNNING or row.worker_id != worker.id:
            await self.kill(row)
            if row.state in (SandboxState.FAILED, SandboxState.ERROR):
                return _failed(ended), row.error_message or "the sandbox failed"
            return ended, f"{row.id} did not run here, once more"
        problem = await self._problem(worker, row)
        await self.kill(row)
        if problem is not None:
            return _failed(ended), problem
        now = self.plane.clock.now()
        return replace(ended, attempts=proof.attempts + 1, proven_at=now), f"{row.id} did what it was told"

    async def _begin(self, worker: Worker, proof: Proof, term: int) -> tuple[Proof, str]:
        now = self.plane.clock.now()
        if proof.begun_at is not None and now - proof.begun_at < PAUSE:
            return proof, f"once more in a moment; {proof.said}"
        choice = self._choice(worker, worker)
        if isinstance(choice, NoPlacement):
            return proof, f"no trial yet: {choice.refusals[worker.id]}"
        named = sandbox_id(secrets.token_bytes(16))
        begun = replace(proof, sandbox_id=named, begun_at=now, said="")
        await self.plane.stores.rollouts.save_proof(begun, term=term)
        return begun, await self._create(worker, named)

    async def _create(self, worker: Worker, named: SandboxId) -> str:
        """Write the row and take the place; the operation's id follows from the sandbox's."""
        await self._have_organisation()
        settings = self.plane.settings
        order = CreateOrder(
            sandbox_id=named,
            operation_id=_create_id(named),
            organisation_id=FLEET_ORGANISATION,
            resources=self._size(),
            template=TEMPLATE,
            region=settings.region,
            actor=ACTOR,
            timeout_s=_IDLE_S,
            network_enabled=False,
            metadata={"trial": worker.id},
        )
        sandbox, operation, log = new_sandbox(self.plane, order)
        if not await self.plane.stores.sandboxes.create(sandbox, operation, log):
            return f"{named} starts"

        def decide(view: FleetView, waiting: Sequence[Waiting]) -> Placement | NoPlacement:
            now = next((one for one in view.workers if one.id == worker.id), None)
            return NoPlacement({worker.id: "is gone"}) if now is None else self._choice(now, worker)

        placed = await self.plane.stores.placements.place(
            operation, sandbox, decide, at=self.plane.clock.now()
        )
        if not isinstance(placed, Placed):
            await self.kill(sandbox)
            return f"no trial yet: {placed.refusals[worker.id]}"
        self.start(placed.operation, placed.sandbox)
        return f"{named} starts"

    def _choice(self, now: Worker, worker: Worker) -> Placement | NoPlacement:
        """Place it there by the usual rule, but for the cordon: that is what keeps all others out."""
        request = PlacementRequest(self._size(), TEMPLATE, worker.region)
        view = FleetView((replace(now, cordoned=False),))
        return place(request, view, self.plane.settings.placement_policy)

    def _size(self) -> Resources:
        settings = self.plane.settings
        return Resources(settings.memory_base_mb, 1, settings.disk_min_mb)

    async def _problem(self, worker: Worker, row: Sandbox) -> str | None:
        """Have it say its own name; return what was wrong with the answer."""
        if self.plane.data_plane is None:
            return "nobody here can tell it anything"
        request = DataPlaneRequest(
            method="POST",
            target=f"/sandboxes/{row.id}/exec/run",
            headers={
                "Content-Type": "application/json",
                EPOCH_HEADER: str(row.epoch),
                EXEC_ID_HEADER: exec_id(secrets.token_bytes(16)),
            },
            body=msgspec.json.encode({"cmd": "echo", "args": [row.id], "timeout": COMMAND_S}),
            silence_max_s=_SILENCE_S,
        )
        try:
            async with self.plane.data_plane.send(worker.id, worker.http_url, request) as answer:
                raw = await answer.read(bytes_max=_ANSWER_BYTES_MAX)
        except SandfleetError as error:
            return f"it could not be told to do anything: {error.message}"
        return None if _is_right(answer.status, raw, row.id) else f"it answered {answer.status} to a command"

    async def _have_organisation(self) -> None:
        organisations = self.plane.stores.organisations
        try:
            await organisations.get(FLEET_ORGANISATION)
        except NotFound:
            own = Organisation(
                FLEET_ORGANISATION, "sandfleet-trials", Quotas(), Caps(), self.plane.clock.now()
            )
            try:
                await organisations.create(own)
            except Conflict:
                return  # another leader was quicker


class _Result(msgspec.Struct, rename="camel"):
    """What is looked at of a command's result."""

    exit_code: int = -1
    stdout: str = ""


def _is_right(status: int, raw: bytes, named: SandboxId) -> bool:
    try:
        result = msgspec.json.decode(raw, type=_Result)
    except msgspec.DecodeError:
        return False
    return status == 200 and result.exit_code == 0 and result.stdout.strip() == named


def _may_be_tried(worker: Worker, version: str | None) -> bool:
    return worker.state is WorkerState.READY and worker.worker_version == version and not worker.draining


def _failed(proof: Proof) -> Proof:
    return replace(proof, attempts=proof.attempts + 1, failed=proof.failed + 1)


def _create_id(named: SandboxId) -> OperationId:
    return operation_id(hashlib.sha256(named.encode()).digest()[:16])
