"""The whole worker process but its engine: wiring, stop, settings, logs."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.integration.worker.fake_control_plane import JOIN_TOKEN, FakeControlPlane, a_control_plane
from tests.integration.worker.harness import ORDER, WORKER_ID, ControlPlaneKey

from sandfleet.local.fleet_health import complaints
from sandfleet.local.layout import Layout
from sandfleet.local.processes import identify
from sandfleet.local.state import FleetState, ServiceCondition, ServiceKind, ServiceState, write_state
from sandfleet.model.errors import HypervisorFailed
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.wire.worker_messages import HeartbeatAnswer
from sandfleet.worker import logs
from sandfleet.worker.background import Background
from sandfleet.worker.main import serve
from sandfleet.worker.settings import WorkerSettings, load_settings

REQUIRED = {"worker_id": WORKER_ID, "machine_id": "m", "control_url": "http://c", "join_token": JOIN_TOKEN}


def _settings(plane: FakeControlPlane, data_dir: Path) -> WorkerSettings:
    return WorkerSettings(
        **{**REQUIRED, "control_url": plane.url, "data_dir": data_dir, "listen_port": 0, "warm_pool_size": 1}
    )


@asynccontextmanager
async def a_served_worker(
    hypervisor: FakeHypervisor, plane: FakeControlPlane, data_dir: Path
) -> AsyncIterator[asyncio.Event]:
    """Serve until the event is set; leaving waits for the end."""
    settings = _settings(plane, data_dir)
    stop = asyncio.Event()
    async with Background() as background:
        serving = background.start(serve(settings, hypervisor, stop=stop), name="worker")
        yield stop
        stop.set()
        await serving.result()


async def test_a_worker_introduces_itself_serves_and_says_goodbye(tmp_path: Path) -> None:
    key = ControlPlaneKey()
    headers = {"Authorization": f"Bearer {key.token()}", "X-Sandfleet-Epoch": "1"}
    async with FakeHypervisor() as hypervisor, a_control_plane() as plane:
        plane.answer = HeartbeatAnswer(term=1, public_keys=key.jwks, heartbeat_interval_s=0.1)
        async with (
            a_served_worker(hypervisor, plane, tmp_path) as stop,
            aiohttp.ClientSession(headers=headers) as http,
        ):
            while not (plane.beats and plane.beats[-1].warm == 1):
                await plane.heard(len(plane.beats) + 1)
            beat = plane.beats[-1]
            assert (beat.worker_id, beat.accelerator, beat.templates) == (
                WORKER_ID,
                "fake",
                {"base": "version-1"},
            )
            async with http.put(f"{beat.http_url}/vms/sb-one", data=msgspec.json.encode(ORDER)) as answer:
                assert answer.status == 200
            url = f"{beat.http_url}/sandboxes/sb-one/exec/run"
            async with asyncio.TaskGroup() as group:
                running = group.create_task(_text(http, url, b'{"cmd":"sleep 0.5; echo finished"}'))
                await hypervisor.faults.reached("read_output")
                stop.set()
        assert json.loads(running.result())["stdout"] == "finished\n"
        assert [beat.stopping for beat in plane.beats][-1] is True
        assert [machine.facts.owner for machine in hypervisor.machines.values()].count("sb-one") == 1


async def test_a_start_that_fails_for_good_ends_the_process_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("sandfleet.worker.main.adopt", fail)
    async with FakeHypervisor() as hypervisor, a_control_plane() as plane, asyncio.timeout(60):
        with pytest.raises(HypervisorFailed, match="nobody foresaw this"):
            await serve(_settings(plane, tmp_path), hypervisor, stop=asyncio.Event())
    assert [beat.stopping for beat in plane.beats][-1:] in ([True], [])


async def test_templates_that_cannot_be_made_are_tried_again_and_health_says_so(tmp_path: Path) -> None:
    async with FakeHypervisor() as hypervisor, a_control_plane() as plane:
        hypervisor.faults.fail("prepare", RuntimeError("nobody foresaw this"))
        async with a_served_worker(hypervisor, plane, tmp_path), aiohttp.ClientSession() as http:
            await hypervisor.faults.reached("prepare")
            hypervisor.faults.hold("prepare")  # the next attempt
            health = f"{(await plane.heard(1)).http_url}/health"
            assert await _phase(http, health) == ("preparing", "the templates cannot be made")
            hypervisor.faults.release("prepare")
            async with asyncio.timeout(60):
                while not plane.beats[-1].templates:
                    await plane.heard(len(plane.beats) + 1)
            assert await _phase(http, health) == ("serving", None)


async def test_the_doctor_hears_what_the_host_of_a_running_fleet_lacks(tmp_path: Path) -> None:
    async with FakeHypervisor() as hypervisor, a_control_plane() as plane:
        hypervisor.degraded = ["cgroup controller memory is not available"]
        async with a_served_worker(hypervisor, plane, tmp_path):
            port = int((await plane.heard(1)).http_url.rpartition(":")[2])
            layout = Layout(tmp_path / "fleet")
            layout.make()
            assert complaints(layout) is None
            own = identify(os.getpid())
            assert own is not None
            running = ServiceState("wk-one", ServiceKind.WORKER, ServiceCondition.RUNNING, port, process=own)
            crashing = ServiceState(
                "server-1", ServiceKind.SERVER, ServiceCondition.RESTARTING, 9, last_error="it ended with 1"
            )
            write_state(layout, FleetState("http://127.0.0.1:9", own, (crashing, running)))
            said = await asyncio.to_thread(complaints, layout)
    assert said is not None
    assert said[0] == "server-1 is restarting: it ended with 1"
    assert said[1].startswith("the server is not ready")
    assert said[-1] == "wk-one is degraded: cgroup controller memory is not available"


async def _phase(http: aiohttp.ClientSession, url: str) -> tuple[str, str | None]:
    async with http.get(url) as answer:
        body = await answer.json()
    return body["phase"], body["trouble"]


async def _text(http: aiohttp.ClientSession, url: str, body: bytes) -> str:
    async with http.post(url, data=body) as answer:
        return await answer.text()


def _written(directory: Path, text: str) -> Path:
    file = directory / "worker.toml"
    file.write_text(text)
    return file


def test_settings_come_from_the_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f'{name} = "{value}"' for name, value in {**REQUIRED, "data_dir": "/d", "region": "a"}.items()]
    file = _written(tmp_path, "\n".join(lines))
    monkeypatch.setenv("SANDFLEET_REGION", "b")
    settings = load_settings(file)
    assert (settings.worker_id, settings.region) == (WORKER_ID, "b")
    assert JOIN_TOKEN not in json.dumps(settings.redacted())


@pytest.mark.parametrize(
    "extra",
    [
        'surprise = "x"',
        'listen_host = "0.0.0.0"',
        "listen_port = -1",
        "memory_max_mib = 5000",
        "memory_default_mib = 1000",
        "memory_base_mib = 500",
        "memory_max_mib = 640\nmemory_default_mib = 768",
        "memory_base_mib = 1152",
        'network_range = "10.210.0.1/16"',
        'network_range = "10.210.0.0/28"',
    ],
)
def test_unknown_and_unusable_settings_refuse_the_start(tmp_path: Path, extra: str) -> None:
    lines = [f'{name} = "{value}"' for name, value in {**REQUIRED, "data_dir": "/d"}.items()]
    with pytest.raises(ValueError, match="validation error"):
        load_settings(_written(tmp_path, "\n".join([*lines, extra])))


def test_a_missing_setting_refuses_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="join_token"):
        load_settings(_written(tmp_path, f'worker_id = "{WORKER_ID}"'))


def test_secrets_do_not_reach_the_log() -> None:
    event = {"event": "x", "join_token": "s", "envs": {"A": "s"}, "Authorization": "s", "path": "/p"}
    assert "s" not in logs.redact(None, "info", dict(event)).values()
    assert logs.redact(None, "info", event)["path"] == "/p"
