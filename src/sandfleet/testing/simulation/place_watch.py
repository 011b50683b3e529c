"""Who may take a sandbox: no worker that is drained, and none of a version that has not proven itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandfleet.model.ids import FLEET_ORGANISATION, SandboxId, WorkerId
from sandfleet.model.transition import Transition
from sandfleet.planning.rollout_state import RolloutStage
from sandfleet.testing.simulation.rollouts import is_bad

if TYPE_CHECKING:
    from sandfleet.testing.simulation.invariants import WatchedDatabase
    from sandfleet.testing.simulation.world import World

_BEYOND_CANARY = (RolloutStage.FLEET, RolloutStage.DONE)


class PlaceWatch:
    """Sees each place as it is taken and given back. What has one already may change its size there."""

    def __init__(self, database: WatchedDatabase, world: World) -> None:
        self._database, self._world = database, world
        self._held: set[tuple[SandboxId, WorkerId]] = set()

    def taken(self, sandbox_id: SandboxId, worker_id: WorkerId) -> None:
        """See that somebody has a place there."""
        if (sandbox_id, worker_id) in self._held:
            return
        self._held.add((sandbox_id, worker_id))
        database, require = self._database, self._database.findings.require
        worker, row = database.workers[worker_id], database.sandboxes[sandbox_id]
        require(worker_id not in database.drains, f"{sandbox_id} is placed on {worker_id}, which is drained")
        is_ours = row.organisation_id == FLEET_ORGANISATION
        require(is_ours or not worker.cordoned, f"{sandbox_id} is placed on {worker_id}, which is cordoned")
        tested = [
            one.rollout.version
            for one in database.rollouts[-1:]
            if one.rollout.stage is RolloutStage.BOOT_TEST
        ]
        is_tried = is_ours or worker.worker_version not in tested
        require(is_tried, f"{sandbox_id} is placed on {worker_id}, whose version is under test")

    def released(self, sandbox_id: SandboxId, worker_id: WorkerId) -> None:
        """See that it has it no more."""
        self._held.discard((sandbox_id, worker_id))

    def look(self, log: Transition) -> None:
        """See how far a version comes."""
        if log.event == "rollout" and log.to_state in _BEYOND_CANARY:
            version = str(log.detail["version"])
            is_good = not is_bad(self._world, version)
            self._database.findings.require(is_good, f"version {version}, which is bad, comes to the fleet")
