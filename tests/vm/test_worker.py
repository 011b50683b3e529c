"""The worker service on real machines: what one process starts the next one serves."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.vm.conftest import make_hypervisor
from tests.vm.worker_process import WorkerProcess, a_worker_process

from sandfleet.adapters.qemu.config import ImageFiles

ID = "sb-test"
MIB = 1024 * 1024


@pytest.fixture
async def worker(data_dir: Path, template_dir: Path, image: ImageFiles) -> AsyncIterator[WorkerProcess]:
    """A worker process; afterwards its host must hold nothing but what `sweep` may remove."""
    engine, network = make_hypervisor(data_dir, template_dir, image)
    try:
        async with a_worker_process(data_dir, template_dir) as process:
            yield process
        assert await engine.adopt() == []
    finally:
        for machine in await engine.adopt():
            await machine.destroy()
        await engine.sweep()
        await network.withdraw()
    assert list((data_dir / "machines").glob("*")) == []


async def test_a_sandbox_from_start_to_stop(worker: WorkerProcess) -> None:
    status = await worker.start(ID, envs={"GREETING": "hello"})
    assert (status["state"], status["memory_mib"]) == ("running", 1024)
    told = await worker.run(ID, {"cmd": 'echo "$GREETING from $(hostname) as $(id -un) in $PWD"; exit 3'})
    assert told == {
        "exitCode": 3,
        "stdout": f"hello from {ID} as sandbox in /home/sandbox\n",
        "stderr": "",
    }
    content = os.urandom(3 * MIB + 7)
    async with worker.files("PUT", ID, "/workspace/deep/file", data=io.BytesIO(content)) as answer:
        assert answer.status == 204
    async with worker.files("GET", ID, "/workspace/deep/file") as answer:
        assert (answer.headers["Content-Length"], await answer.read()) == (str(len(content)), content)
    slow = await worker.run(ID, {"cmd": "echo begun; sleep 60", "timeout": 4})
    assert (slow["exitCode"], slow["stdout"], slow["timedOut"]) == (-1, "begun\n", True)
    missing = await worker.run(ID, {"cmd": "no-such-program", "args": ["x"]})
    assert missing["code"] == "exec_failed"
    assert await worker.stop(ID) == {"sandbox_id": ID, "existed": True}
    assert await worker.vms() == []


async def test_a_killed_worker_costs_its_sandboxes_nothing(worker: WorkerProcess) -> None:
    await worker.start(ID)
    # It ends when it is told to, so that it runs on however long the next worker takes to come.
    command = {"cmd": "echo begun; until [ -e /tmp/go ]; do sleep 0.2; done; echo ended", "timeout": 600}
    handle = await worker.run(ID, command, verb="run-async", exec_id="ex-waiting")
    assert handle["running"] is True
    await worker.end(by_kill=True)
    await worker.begin_again()
    (vm,) = await worker.vms()
    assert (vm["sandbox_id"], vm["epoch"], vm["state"], vm["in_flight"]) == (ID, 1, "running", 1)
    # Its listener in the sandbox's namespace ended with the killed process.
    asked = "curl -sS --retry 20 --retry-delay 1 --retry-all-errors http://169.254.169.254/v1/status"
    told = json.loads((await worker.run(ID, {"cmd": asked}))["stdout"])
    assert told["sandboxId"] == ID
    await worker.run(ID, {"cmd": "touch /tmp/go"})
    result = await worker.run(ID, command, exec_id="ex-waiting")
    assert result == {"exitCode": 0, "stdout": "begun\nended\n", "stderr": ""}
    assert await worker.end(by_kill=False) == 0
    await worker.begin_again()
    assert (await worker.run(ID, {"cmd": "echo still here"}))["stdout"] == "still here\n"
    await worker.stop(ID)


async def test_a_killed_vm_is_reported_and_removed(worker: WorkerProcess) -> None:
    await worker.start(ID)
    answer = await worker.run(ID, {"cmd": "sudo sh -c 'echo c > /proc/sysrq-trigger'", "timeout": 300})
    assert answer.get("code") in ("gone", "agent_unresponsive"), answer
    while (await worker.vms())[0]["state"] != "dead":
        await worker.plane.heard(len(worker.plane.beats) + 1)
    assert (await worker.vms())[0]["reason"]
    assert (await worker.stop(ID))["existed"] is True
