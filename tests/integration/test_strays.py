"""Copies of snapshots that no row names are removed from their worker, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.crashing import until
from tests.integration.saved import collect, hibernated, ids, one_running

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops import strays
from sandfleet.model.errors import StaleTerm
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import WorkerState
from sandfleet.testing.builders import a_worker
from sandfleet.wire.worker_messages import SnapshotDropped, SnapshotState

pytestmark = pytest.mark.timeout(240)


async def look(observer: ControlPlane) -> str:
    return await strays.tick(observer, term=await observer.stores.terms.current_term())


async def test_a_copy_whose_worker_was_silent_when_it_was_to_be_removed_goes_later(replicas: Any) -> None:
    """Another host had fetched it, and was not asked: by the time it is heard again there is no row."""
    observer, sandbox = await hibernated(replicas)
    one, two = replicas.workers.host("wk-one"), replicas.workers.host("wk-two")
    two.saved["sn-first"] = one.saved["sn-first"]
    workers, other = observer.stores.workers, a_worker("wk-two", machine_id="machine-two")
    await workers.register(other)
    term = await observer.stores.terms.raise_term("leader")
    await workers.mark_absent(WorkerState.SILENT, silent_for=timedelta(0), term=term)
    async with replicas.replica("replica-0") as fleet:
        await fleet.kill(sandbox, actor="test")
        await until(observer, lambda row: row.state is SandboxState.STOPPED)
    assert await collect(observer) == "removed 1 of 1 unneeded snapshots"
    assert (list(one.saved), list(two.saved)) == ([], ["sn-first"])
    assert await look(observer) == "every copy has a row"  # it is silent still, and not judged
    await workers.register(replace(other, instance_id="process-2"))
    assert await look(observer) == "removed 1 copies without a row"
    assert two.saved == {}


async def test_a_copy_with_a_row_stays(replicas: Any) -> None:
    observer, _ = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    host.saved["sn-stray"] = host.saved["sn-first"]
    assert await look(observer) == "removed 1 copies without a row"
    assert list(host.saved) == ["sn-first"]


async def test_a_copy_that_is_made_while_the_leader_looks_stays(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are read after the copies: what is listed has its row by then."""
    observer, sandbox = await one_running(replicas)
    listing = replicas.workers.snapshots

    async def saved_meanwhile(*target: str) -> Sequence[SnapshotState]:
        async with replicas.replica("replica-0") as fleet:
            await fleet.checkpoint(sandbox, ids=ids("first"), name="one", actor="test")
            await until(observer, lambda row: row.version > sandbox.version)
        found: Sequence[SnapshotState] = await listing(*target)
        return found

    monkeypatch.setattr(replicas.workers, "snapshots", saved_meanwhile)
    assert await look(observer) == "every copy has a row"
    assert list(replicas.workers.host("wk-one").saved) == ["sn-first"]


async def test_they_are_removed_in_the_leaders_term_and_a_failure_is_tried_again(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer, _ = await hibernated(replicas)
    host = replicas.workers.host("wk-one")
    host.saved["sn-stray"] = host.saved["sn-first"]
    host.is_unreachable = True
    assert await look(observer) == "every copy has a row"
    host.is_unreachable = False
    drop, terms = replicas.workers.drop_snapshot, []

    async def noting(*target: str, term: int = 0) -> SnapshotDropped:
        terms.append(term)
        if term == 7:
            raise StaleTerm("over")
        dropped: SnapshotDropped = await drop(*target, term=term)
        return dropped

    monkeypatch.setattr(replicas.workers, "drop_snapshot", noting)
    with pytest.raises(StaleTerm):
        await strays.tick(observer, term=7)
    assert await strays.tick(observer, term=8) == "removed 1 copies without a row"
    assert terms == [7, 8]
