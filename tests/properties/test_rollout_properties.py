"""Roll-outs over generated fleets: they come to an end, keep their budget, and lose nothing on the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sandfleet.model.drain import DrainOwner
from sandfleet.model.launch import LaunchFailure, MachineSize
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import DrainWorker, LaunchMachine, Member
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.rollout import RolloutPlan
from sandfleet.planning.rollout_health import RolloutPolicy, Wellness
from sandfleet.planning.rollout_state import Rollout, RolloutStage
from sandfleet.testing.builders import NOON
from sandfleet.testing.virtual_fleet.fleet import Behaviour, VirtualFleet
from sandfleet.testing.virtual_fleet.run import Course, RolloutCourse, Run, run
from sandfleet.testing.virtual_fleet.trace import Arrival

SMALL = MachineSize("pool", "small", Resources(8192, 8, 400_000), price_per_hour=1.0, boot_s=60)
LARGE = MachineSize("pool", "large", Resources(16384, 16, 800_000), price_per_hour=2.0, boot_s=90)
BEGUN_S = 1200.0
# A run is not made smaller when it fails: that would take minutes, and the seed says it all.
RUNS = settings(derandomize=True, max_examples=6, phases=[Phase.explicit, Phase.generate])
ROLLOUTS = st.builds(
    RolloutPolicy, canaries=st.integers(1, 2), surge=st.integers(1, 3), missing_max=st.integers(0, 1)
)
LOADS = st.lists(
    st.tuples(st.integers(0, 4000), st.sampled_from([1024, 2048, 4096]), st.sampled_from([600, 3000, 10**6])),
    min_size=1,
    max_size=30,
)


def rolled_out(
    load: list[tuple[int, int, int]],
    policy: RolloutPolicy,
    *,
    version: str = "2",
    workers_max: int = 20,
    seed: int = 0,
    behaviour: Behaviour | None = None,
) -> tuple[Run, list[Rollout]]:
    """Run a trace with a roll-out; at each of its steps the budget must have been kept."""
    stages: list[Rollout] = []
    done: list[Run] = []

    def wellness(member: Member) -> Wellness:
        is_bad = member.worker.worker_version == "bad"
        return Wellness(is_proven=not is_bad, attempts=10, failed=6 if is_bad else 0)

    def kept(fleet: VirtualFleet, plan: RolloutPlan) -> None:
        stages.append(plan.rollout)
        assert Rollout.from_json(plan.rollout.to_json()) == plan.rollout
        if any(isinstance(one, DrainWorker) for one in plan.commands):
            healthy = sum(member.takes_more for member in fleet.hosts.members())
            assert healthy >= done[0].wanted - policy.missing_max
        draining = sum(one.drained_by is DrainOwner.ROLLOUT for one in fleet.hosts.by_id.values())
        assert draining <= policy.surge

    trace = [
        Arrival(float(at), f"sb-{number:03}", memory_mib, float(lasts))
        for number, (at, memory_mib, lasts) in enumerate(sorted(load))
    ]
    course = Course(
        CapacityPolicy(
            sizes=[SMALL, LARGE], workers_max=workers_max, placement=PlacementPolicy(cpu_ratio_max=4)
        ),
        Resources(2048, 1, 20480),
        behaviour or Behaviour(wait_s_max=10**6),
        workers_first=3,
        round_s=60.0,
        seed=seed,
        rollout=RolloutCourse(BEGUN_S, version, policy, wellness, kept),
        on_begin=done.append,
    )
    return run(trace, course, until_s=14400), stages


def versions(done: Run) -> set[str]:
    return {member.worker.worker_version for member in done.fleet.hosts.members()}


@RUNS
@given(LOADS, ROLLOUTS, st.integers(0, 3))
def test_a_good_version_reaches_every_worker(
    load: list[tuple[int, int, int]], policy: RolloutPolicy, seed: int
) -> None:
    done, stages = rolled_out(load, policy, seed=seed)
    assert stages[-1].stage is RolloutStage.DONE
    assert versions(done) == {"2"}
    assert done.fleet.sandboxes == sum(at + lasts > 14400 for at, _, lasts in load)
    assert done.fleet.tally.refused == 0


@RUNS
@given(LOADS, ROLLOUTS, st.integers(0, 3))
def test_a_fleet_that_may_have_no_more_machines_is_replaced_as_well(
    load: list[tuple[int, int, int]], policy: RolloutPolicy, seed: int
) -> None:
    done, stages = rolled_out(load, policy, workers_max=4, seed=seed)
    assert stages[-1].stage is RolloutStage.DONE
    assert versions(done) == {"2"}


@RUNS
@given(LOADS, ROLLOUTS, st.integers(0, 3))
def test_a_bad_version_is_stopped_at_the_canary_and_goes(
    load: list[tuple[int, int, int]], policy: RolloutPolicy, seed: int
) -> None:
    done, stages = rolled_out(load, policy, version="bad", seed=seed)
    assert [one.stage for one in stages][-1] is RolloutStage.TURNED_BACK
    assert RolloutStage.FLEET not in {one.stage for one in stages}
    assert "not well" in stages[-1].reason
    assert versions(done) == {"1"}
    assert done.fleet.sandboxes == sum(at + lasts > 14400 for at, _, lasts in load)


def test_a_version_that_does_not_boot_is_stopped_and_nothing_was_drained() -> None:
    def breaks(command: LaunchMachine) -> LaunchFailure | None:
        return LaunchFailure.BROKEN if command.version == "2" else None

    behaviour = Behaviour(wait_s_max=10**6, launch_failure=breaks)
    load = [(0, 4096, 10**6)] * 4
    done, stages = rolled_out(load, RolloutPolicy(), behaviour=behaviour)
    assert stages[-1].stage is RolloutStage.TURNED_BACK
    assert stages[-1].reason == "3 machines of version 2 did not join"
    assert versions(done) == {"1"}
    assert done.fleet.tally.migrations == 0


@settings(derandomize=True, max_examples=40)
@given(
    st.sampled_from(RolloutStage),
    st.text(max_size=5),
    st.integers(0, 10**6),
)
def test_the_state_goes_through_json(stage: RolloutStage, reason: str, age_s: int) -> None:
    state = Rollout("2", "1", stage, NOON, NOON + timedelta(seconds=age_s), reason)
    assert Rollout.from_json(state.to_json()) == state
    assert replace(state, reason="") == Rollout.from_json(replace(state, reason="").to_json())
