"""Sizes, previews, signed URLs, tags, restarts and the metadata service on a real fleet.

The published Python client does what it offers; the rest is plain HTTP, as its users would write it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from opencomputer import Sandbox, ScalingLockedError
from tests.acceptance.counting_socket import ECHO_APP, ECHO_PORT
from tests.acceptance.live_fleet import COMMAND, LiveFleet
from tests.waiting import eventually
from websockets.asyncio.client import connect

pytestmark = [pytest.mark.timeout(600)]

ATTEMPTS_MAX = 10
FOLLOWS_WITHIN_S = 180.0
APP = """
import asyncio, http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for number in range(3):
                self.wfile.write(f"data: {number}\\n\\n".encode())
                self.wfile.flush()
            return
        body = f"{self.path} for {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))[::-1]
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
"""


@pytest.fixture
async def sandbox(fleet: LiveFleet) -> AsyncIterator[Sandbox]:
    made = await Sandbox.create(api_key=fleet.api_key, api_url=fleet.url, memory_mb=1024)
    yield made
    await made.kill()
    await made.close()


def host(sandbox: Sandbox, port: int) -> dict[str, str]:
    return {"Host": f"{sandbox.sandbox_id}-p{port}.previews.example"}


async def said(sandbox: Sandbox, line: str) -> str:
    result = await sandbox.exec.run(line)
    assert result.exit_code == 0, result
    return str(result.stdout).strip()


async def scaled(sandbox: Sandbox, size_mb: int) -> dict[str, Any]:
    """Change the size. A guest that is slow to give memory back is asked again."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            return dict(await sandbox.scale(memory_mb=size_mb))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 409 or attempt == ATTEMPTS_MAX - 1:
                raise
            await asyncio.sleep(1)
    raise AssertionError("unreachable")


async def total_mb(sandbox: Sandbox) -> float:
    return int(await said(sandbox, "awk '/MemTotal/ {print $2}' /proc/meminfo")) / 1024


async def fill(sandbox: Sandbox, memory_mb: int) -> None:
    """Have a program in it that uses so much memory, and does nothing."""
    program = f'b=b"x"*({memory_mb}<<20); import time; time.sleep(600)'
    await said(sandbox, f"setsid python3 -c '{program}' >/dev/null 2>&1 &")


async def has_size(fleet: LiveFleet, sandbox: Sandbox, size_mb: int) -> None:
    """Return when the fleet has given it that size by itself."""
    async with fleet.async_client() as http:

        async def is_so() -> bool:
            found = (await http.get(f"/api/sandboxes/{sandbox.sandbox_id}")).json()
            return bool(found["memoryMB"] == size_mb)

        await eventually(is_so, what=f"{size_mb} MB", within_s=FOLLOWS_WITHIN_S, every_s=0.5)


async def begin(sandbox: Sandbox, program: str, *, port: int, fleet: LiveFleet) -> None:
    """Start a program in the sandbox and return when its port answers."""
    await sandbox.files.write(f"/home/sandbox/app{port}.py", program)
    await said(sandbox, f"setsid python3 app{port}.py >/tmp/app{port}.log 2>&1 </dev/null & sleep 0.2")
    look = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 1)'"
    for _ in range(200):
        if (await sandbox.exec.run(look)).exit_code == 0:
            return
        await asyncio.sleep(0.3)
    raise AssertionError(await said(sandbox, f"cat /tmp/app{port}.log"))


async def test_a_sandbox_grows_and_shrinks_and_the_guest_has_it(fleet: LiveFleet, sandbox: Sandbox) -> None:
    for size in (2048, 4096, 1024, 512):
        assert (await scaled(sandbox, size))["memoryMB"] == size
        share = 0.93 if size >= 4096 else 0.88
        assert share * size <= await total_mb(sandbox) <= 1.02 * size
        limit = int(await said(sandbox, "cat /sys/fs/cgroup/sandbox/memory.max")) / 2**20
        assert 0.88 * size <= limit <= 1.15 * size
    async with fleet.async_client() as http:
        path = f"/api/sandboxes/{sandbox.sandbox_id}"
        limits = await http.put(f"{path}/limits", json={"memoryMB": 1024, "cpuPercent": 50})
        assert limits.json()["cpuPercent"] == 50
        assert await said(sandbox, "cat /sys/fs/cgroup/sandbox/cpu.max") == "50000 100000"
        await fill(sandbox, 600)
        for _ in range(400):
            if (await http.get(f"{path}/stats")).json()["memUsage"] > 550 * 2**20:
                break
            await asyncio.sleep(0.3)
        refused = await http.post(f"{path}/scale", json={"memoryMB": 512})
        assert (refused.status_code, refused.json()["code"]) == (409, "oom_floor"), refused.text
        assert (await http.get(path)).json()["memoryMB"] == 1024
        stats = (await http.get(f"{path}/stats")).json()
        assert stats["memUsage"] > 500 * 2**20


async def test_a_size_follows_its_use_up_and_down_until_it_is_locked(
    fleet: LiveFleet, sandbox: Sandbox
) -> None:
    given = {"enabled": True, "minMemoryMB": 1024, "maxMemoryMB": 2048}
    on = await sandbox.set_autoscale(True, min_memory_mb=1024, max_memory_mb=2048)
    assert on == {"sandboxID": sandbox.sandbox_id, **given} == await sandbox.get_autoscale()
    await fill(sandbox, 800)
    await has_size(fleet, sandbox, 2048)
    assert await total_mb(sandbox) >= 0.88 * 2048
    await said(sandbox, "pkill -f 'slee[p].600'")
    await has_size(fleet, sandbox, 1024)
    assert await total_mb(sandbox) <= 1.02 * 1024
    async with fleet.async_client() as http:
        log = (await http.get(f"/api/sandboxes/{sandbox.sandbox_id}/events")).json()
    changes = [one["reason"] for one in log if one["event"] == "resize_requested"]
    assert changes[-1].startswith("1024 to 2048 MiB: it uses "), changes
    assert changes[0].startswith("2048 to 1024 MiB: for "), changes

    assert (await sandbox.set_scaling_lock(True))["locked"] is True
    assert (await sandbox.get_autoscale())["enabled"] is False
    for refused in (sandbox.set_autoscale(True), sandbox.scale(memory_mb=2048)):
        with pytest.raises(ScalingLockedError):
            await refused
    assert (await sandbox.set_scaling_lock(False))["locked"] is False
    assert await sandbox.get_autoscale() == {"sandboxID": sandbox.sandbox_id, **given, "enabled": False}
    assert (await sandbox.scale(memory_mb=2048))["memoryMB"] == 2048


async def test_a_guest_asks_about_itself_and_changes_its_size(sandbox: Sandbox) -> None:
    root = "http://169.254.169.254"
    status = await said(sandbox, f"curl -sS {root}/v1/status")
    assert status.startswith(f'{{"sandboxId":"{sandbox.sandbox_id}","uptime":')
    assert json.loads(await said(sandbox, f"curl -sS {root}/v1/metadata"))["template"] == "base"
    scale = f"curl -sS -X POST {root}/v1/scale -d '{{\"memoryMB\":1536}}'"
    assert await said(sandbox, scale) == '{"ok":true,"memoryMB":1536,"cpuPercent":100}'
    assert await total_mb(sandbox) >= 0.88 * 1536
    assert json.loads(await said(sandbox, f"curl -sS {root}/v1/limits"))["memLimit"] > 1200 * 2**20


async def test_previews_stream_into_a_port(fleet: LiveFleet, sandbox: Sandbox) -> None:
    record: dict[str, Any] = await sandbox.create_preview_url(port=3000)
    assert record["hostname"].startswith(f"{sandbox.sandbox_id}-p3000.")
    async with httpx.AsyncClient(base_url=fleet.url, timeout=60) as anybody:
        page = await anybody.get("/", headers={**host(sandbox, 3000), "Accept": "text/html"})
        assert page.status_code == 503
        await begin(sandbox, APP, port=3000, fleet=fleet)
        seen = await anybody.get("/hello?x=1", headers=host(sandbox, 3000))
        assert seen.text == f"/hello?x=1 for {host(sandbox, 3000)['Host']}"
        posted = await anybody.post("/", content=b"abc" * 100_000, headers=host(sandbox, 3000))
        assert (posted.status_code, posted.content) == (201, (b"abc" * 100_000)[::-1])
        events = await anybody.get("/events", headers=host(sandbox, 3000))
        assert events.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        token = await sandbox.rotate_preview_auth_token()
        assert (await anybody.get("/", headers=host(sandbox, 3000))).status_code == 401
        opened = {**host(sandbox, 3000), "X-OC-Preview-Token": token}
        assert (await anybody.get("/", headers=opened)).status_code == 200
    await begin(sandbox, ECHO_APP, port=ECHO_PORT, fleet=fleet)
    address = fleet.url.replace("http://127.0.0.1", f"ws://{sandbox.sandbox_id}-p{ECHO_PORT}.localhost")
    port = int(fleet.url.rpartition(":")[2])
    headers = {"X-OC-Preview-Token": token}
    async with connect(
        address, host="127.0.0.1", port=port, additional_headers=headers, open_timeout=60
    ) as socket:
        for word in ("one", "two"):
            await socket.send(word)
            assert await socket.recv() == word
    assert [one["port"] for one in await sandbox.list_preview_urls()] == [3000]
    await sandbox.delete_preview_url(3000)
    assert await sandbox.list_preview_urls() == []


async def test_signed_urls(sandbox: Sandbox) -> None:
    async with httpx.AsyncClient(timeout=60) as anybody:
        up = await sandbox.upload_url("/workspace/signed.bin")
        assert (await anybody.put(up, content=b"\x00\x01" * 50_000)).status_code == 204
        down = await sandbox.download_url("/workspace/signed.bin")
        assert (await anybody.get(down)).content == b"\x00\x01" * 50_000


@pytest.mark.parametrize("verb", ["reboot", "power_cycle"])
async def test_a_restarted_sandbox_keeps_its_disk_and_name(sandbox: Sandbox, verb: str) -> None:
    await said(sandbox, "echo kept > /workspace/kept; echo kept | sudo tee /etc/kept; sync")
    before = await said(sandbox, "cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id")
    await getattr(sandbox, verb)()
    assert (
        await said(sandbox, "cat /workspace/kept /etc/kept; hostname") == f"kept\nkept\n{sandbox.sandbox_id}"
    )
    after = await said(sandbox, "cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id")
    assert after.split()[0] == before.split()[0]
    assert after.split()[1] != before.split()[1]
    status = await said(sandbox, "curl -sS -m 50 http://169.254.169.254/v1/status")
    assert sandbox.sandbox_id in status


def test_the_commands(fleet: LiveFleet) -> None:
    def command(*arguments: str) -> str:
        environment = os.environ | {"SANDFLEET_URL": fleet.url, "SANDFLEET_API_KEY": fleet.api_key}
        done = subprocess.run(
            [COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    name = command("create", "--memory", "1024")
    try:
        assert command("scale", name, "1536") == "1536 MiB, 100 % CPU"
        assert json.loads(command("stats", name, "--json"))["status"] == "running"
        command("tags", name, "team=a", "stage=b")
        assert json.loads(command("tags", name, "--json")) == {"stage": "b", "team": "a"}
        assert "team" in command("tags")
        assert command("preview", "create", name, "8080").startswith(f"{name}-p8080.")
        assert json.loads(command("preview", "ls", name, "--json"))[0]["port"] == 8080
        command("preview", "rm", name, "8080")
        assert len(command("preview", "rotate", name)) >= 43
        command("exec", name, "--", "sh", "-c", "echo hi > x")
        url = command("url", "download", name, "x")
        assert httpx.get(url, timeout=60).text == "hi\n"
        command("reboot", name)
        assert command("exec", name, "--", "cat", "x") == "hi"
        command("power-cycle", name)
        assert command("exec", name, "--", "cat", "x") == "hi"
    finally:
        command("rm", name)
