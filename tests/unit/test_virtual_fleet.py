"""The simulator's own parts: traces, figures and curves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sandfleet.cli.errors import CommandFailed
from sandfleet.cli.main import app
from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.planning.fleet import RemoveWorker
from sandfleet.planning.placement import PlacementRequest
from sandfleet.testing.virtual_fleet.fleet import Behaviour, VirtualFleet
from sandfleet.testing.virtual_fleet.generate import Load, generated
from sandfleet.testing.virtual_fleet.hosts import BrokenPromise
from sandfleet.testing.virtual_fleet.plots import curves, write_page
from sandfleet.testing.virtual_fleet.report import figures, thrash
from sandfleet.testing.virtual_fleet.scenario import Scenario
from sandfleet.testing.virtual_fleet.trace import Arrival, BadTrace, read_trace, write_trace

SMALL = Scenario(workers_max=5, sandboxes=20, hours=0.5, worker_memory_mib=32768)


def test_a_trace_goes_through_its_file(tmp_path: Path) -> None:
    trace = generated(Load(sandboxes=5, hours=0.2), seed=3)
    write_trace(tmp_path / "trace.jsonl", trace)
    assert list(read_trace(tmp_path / "trace.jsonl")) == sorted(trace, key=lambda one: (one.at_s, one.id))


def test_the_same_seed_is_the_same_trace_and_has_about_the_load_that_was_asked_for() -> None:
    load = Load(sandboxes=50, hours=3, swing=0)
    assert generated(load, seed=1) == generated(load, seed=1)
    assert generated(load, seed=1) != generated(load, seed=2)
    lived_s = sum(min(one.lifetime_s, 3 * 3600 - one.at_s) for one in generated(load, seed=1))
    assert 35 < lived_s / (3 * 3600) < 65


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no json", "malformed"),
        ("[1]", "Expected `object`, got `array`"),
        ('{"at_s": 1}', "missing required field `id`"),
        ('{"at_s": -1, "id": "x", "memory_mib": 1, "lifetime_s": 1}', r"Expected `float` >= 0.*at_s"),
        ('{"at_s": 1, "id": "x", "memory_mib": 0, "lifetime_s": 1}', r"Expected `int` >= 1.*memory_mib"),
        ('{"at_s": 1, "id": "x", "memory_mib": 1, "lifetime_s": 0}', r"Expected `float` > 0.*lifetime_s"),
        ('{"at_s": "1", "id": "x", "memory_mib": 1, "lifetime_s": 1}', r"Expected `float`, got `str`.*at_s"),
        ('{"at_s": 1, "id": "known", "memory_mib": 1, "lifetime_s": 1}', "the id known stands in line 1"),
        ('{"at_s": 1, "id": "x", "memory_mib": 1, "lifetime_s": 1, "colour": "red"}', "`colour`"),
    ],
)
def test_a_line_that_is_no_arrival_is_named_with_what_is_wrong(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0, "id": "known", "memory_mib": 1, "lifetime_s": 1}\n\n' + line + "\n")
    with pytest.raises(BadTrace, match=f"^line 3: .*{why}"):
        read_trace(path)
    refused = CliRunner().invoke(app, ["simulate", str(path)])
    assert isinstance(refused.exception, CommandFailed)
    assert "line 3: " in str(refused.exception)


@pytest.mark.parametrize(("content", "why"), [(b"\n\n", "no sandbox"), (b"\xff\xfe\n", "^line 1: ")])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadTrace, match=why):
        read_trace(path)
    with pytest.raises(BadTrace, match="directory"):
        read_trace(tmp_path)


def test_the_example_of_the_documentation_is_played_to_its_end(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    (example,) = re.findall(r'```json\n(\{"at_s".*?)```', page, re.DOTALL)
    path = tmp_path / "trace.jsonl"
    path.write_text(example)
    done = CliRunner().invoke(app, ["simulate", str(path), "--json"])
    found = json.loads(done.stdout)
    assert found["hours"] == pytest.approx(2.0, abs=0.01)
    assert (found["sandboxes_placed"], found["refused"]) == (3, 0)


def test_curves_are_written_as_a_page_and_as_nothing_else(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["simulate", "--plot", str(tmp_path / "curves.png")])
    assert isinstance(refused.exception, CommandFailed)
    assert "no .html file" in str(refused.exception)


def test_a_removal_counts_for_one_launch_within_half_an_hour() -> None:
    assert thrash([100.0, 200.0, 5000.0], [50.0]) == 1
    assert thrash([10.0], [50.0]) == 0
    assert thrash([1900.0], [50.0]) == 0
    assert thrash([100.0, 110.0], [50.0, 60.0]) == 2


def test_the_fleet_refuses_commands_that_no_fleet_may_follow() -> None:
    fleet = VirtualFleet(SMALL.policy(), Behaviour(), seed=0)
    worker_id = WorkerId("wk-one")
    host = fleet.hosts.add(worker_id, fleet.policy.sizes[0], version="1", at=fleet.now)
    with pytest.raises(BrokenPromise, match="without a drain"):
        fleet.apply(RemoveWorker(worker_id, "test"))
    with pytest.raises(BrokenPromise, match="is promised"):
        fleet.hosts.reserve(worker_id, Resources(40000, 1, 1))
    request = PlacementRequest(Resources(1024, 1, 1), "base", "local")
    fleet.hosts.reserve(worker_id, request.resources)
    fleet.hosts.take(worker_id, SandboxId("sb-one"), request)
    fleet.hosts.drain(worker_id, DrainOwner.CAPACITY)
    with pytest.raises(BrokenPromise, match="takes nothing"):
        fleet.hosts.reserve(worker_id, Resources(1, 1, 1))
    with pytest.raises(BrokenPromise, match="ended with 1 sandboxes"):
        fleet.apply(RemoveWorker(worker_id, "test"))
    with pytest.raises(BrokenPromise, match="calls off"):
        fleet.hosts.keep(worker_id, DrainOwner.ROLLOUT)
    assert list(host.residents) == ["sb-one"]


def test_figures_of_a_run_that_can_be_counted_by_hand() -> None:
    trace = [Arrival(0.0, "sb-a", 16384, 10_000), Arrival(0.0, "sb-b", 16384, 10_000)]
    scenario = Scenario(workers_max=1, sandboxes=1, hours=0.1, worker_memory_mib=32768, idle_reserve=0)
    late = Arrival(10.0, "sb-c", 1024, 10_000)
    found = figures(scenario.play([*trace, late]), round_s=scenario.round_s)
    assert (found.sandboxes_placed, found.refused, found.workers_max) == (2, 1, 1)
    assert (found.utilisation, found.packing, found.fragmentation) == (1.0, 1.0, 0.0)
    assert found.cost == pytest.approx(found.hours)
    assert found.cost == found.cost_least


def test_the_page_of_curves_holds_every_curve(tmp_path: Path) -> None:
    done = SMALL.play(SMALL.trace())
    write_page(done, tmp_path / "page.html", title="A fleet")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, lines in curves(done).items():
        assert name in page
        assert all(len(values) == len(done.rounds) for values in lines.values())


def test_the_command_runs_the_trace_that_it_recorded(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    common = ["--json", "--hours", "0.2", "--workers", "5", "--worker-memory", "32768"]
    made = CliRunner().invoke(app, ["simulate", "--sandboxes", "20", "--record", str(trace), *common])
    again = CliRunner().invoke(app, ["simulate", str(trace), *common])
    assert made.exit_code == again.exit_code == 0
    first, second = json.loads(made.stdout), json.loads(again.stdout)
    for found in (first, second):
        assert found.pop("placements_per_s") > 0
    assert first == second
    assert first["sandboxes_placed"] > 20
    table = CliRunner().invoke(app, ["simulate", str(trace), *common[1:]])
    assert "least possible workers, of those that hold something" in table.stdout
