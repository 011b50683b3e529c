"""What operators rely on: readiness, metrics, the reference, graceful stop, and logs without secrets."""

from __future__ import annotations

import asyncio
from socket import create_server

import httpx
from websockets.asyncio.client import connect

from sandfleet import __version__
from sandfleet.local.embedded_postgres import RunningPostgres

from .conftest import BOOTSTRAP_KEY, JOIN_TOKEN, Fleet, OpenFleet


async def test_health(fleet: Fleet) -> None:
    async with fleet.anonymous() as client:
        assert (await client.get("/health")).json() == {"status": "ok", "version": __version__}
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ready", "postgres": "ok", "redis": "ok"},
        )
        fleet.edge.drain.give_notice()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "draining")
        assert (await client.get("/health")).status_code == 200


async def test_a_fleet_without_redis_is_degraded_and_works(open_fleet: OpenFleet) -> None:
    async with open_fleet(redis_url="redis://127.0.0.1:1/0") as fleet:
        assert (await fleet.client.get("/readyz")).json()["redis"] == "degraded"
        sandbox = await fleet.create()
        run = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo x"})
        assert run.json()["stdout"] == "x\n"


async def test_without_postgresql_nothing_is_ready_and_the_error_says_so(
    fleet: Fleet, postgres_server: RunningPostgres
) -> None:
    reads = [fleet.client.get("/api/sandboxes") for _ in range(8)]  # each kept connection has read once
    assert {answer.status_code for answer in await asyncio.gather(*reads)} == {200}
    await asyncio.to_thread(postgres_server.kill)
    try:
        ready = await fleet.client.get("/readyz")
        assert (ready.status_code, ready.json()["postgres"]) == (503, "unavailable")
        answer = await fleet.client.get("/api/sandboxes")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    finally:
        await asyncio.to_thread(postgres_server.restart)
    assert (await fleet.client.get("/readyz")).json()["postgres"] == "ok"
    assert (await fleet.client.get("/api/sandboxes")).status_code == 200


async def test_metrics(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo x"})
    await fleet.client.get(f"/api/sandboxes/{sandbox}/files")
    for line in (
        'sandfleet_http_requests_total{method="POST",route="/api/sandboxes/{id}/exec/run",status="200"} 1.0',
        'sandfleet_sandboxes{region="local",status="running"} 1.0',
        'sandfleet_errors_total{code="bad_request"} 1.0',
        'sandfleet_worker_memory_committed_bytes{worker="wk-1"} 1.073741824e+09',
        "sandfleet_create_queue_length 0.0",
    ):
        await _scraped(fleet, line)
    text = (await fleet.client.get("/metrics")).text
    for secret in (sandbox, BOOTSTRAP_KEY, "default"):
        assert secret not in text
    async with fleet.anonymous() as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_metrics_of_sockets_and_of_what_runs(fleet: Fleet) -> None:
    await _scraped(fleet, 'sandfleet_exec_sessions{worker="wk-1"} 0.0')
    await _scraped(fleet, 'sandfleet_ws_clients{kind="preview"} 0.0')
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}"
    session = (await fleet.client.post(f"{path}/exec", json={"cmd": "cat"})).json()["sessionID"]
    terminal = (await fleet.client.post(f"{path}/pty", json={"shell": "cat"})).json()["sessionID"]
    await _scraped(fleet, 'sandfleet_exec_sessions{worker="wk-1"} 2.0')
    url = fleet.url.replace("http", "ws", 1)
    headers = {"X-API-Key": BOOTSTRAP_KEY}
    async with (
        connect(f"{url}{path}/exec/{session}", additional_headers=headers),
        connect(f"{url}{path}/pty/{terminal}", additional_headers=headers),
    ):
        await _scraped(fleet, 'sandfleet_ws_clients{kind="exec"} 1.0')
        await _scraped(fleet, 'sandfleet_ws_clients{kind="pty"} 1.0')
    await fleet.client.post(f"{path}/exec/{session}/kill")
    await fleet.client.delete(f"{path}/pty/{terminal}")
    await _scraped(fleet, 'sandfleet_ws_clients{kind="exec"} 0.0')
    await _scraped(fleet, 'sandfleet_ws_clients{kind="pty"} 0.0')
    await _scraped(fleet, 'sandfleet_exec_sessions{worker="wk-1"} 0.0')


async def test_metrics_of_operations_and_of_the_queue(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=1024, creation_queue_s=45) as fleet:
        first = await fleet.create()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(fleet.create())
            await _scraped(fleet, "sandfleet_create_queue_length 1.0")
            await fleet.client.delete(f"/api/sandboxes/{first}")
        assert waiting.result() != first
        await _scraped(fleet, "sandfleet_create_queue_wait_seconds_count 1.0")
        done = 'sandfleet_operation_seconds_count{operation="destroy",outcome="succeeded"} 1.0'
        await _scraped(fleet, done)
        await _scraped(fleet, 'sandfleet_operation_seconds_count{operation="create",outcome="running"} 2.0')


async def _scraped(fleet: Fleet, line: str) -> None:
    """Return when the metrics say it."""
    async with asyncio.timeout(60):
        while line not in (await fleet.client.get("/metrics")).text.splitlines():
            await asyncio.sleep(0.02)


async def test_the_reference_needs_no_internet(fleet: Fleet) -> None:
    async with fleet.anonymous() as client:
        page = await client.get("/docs")
        assert page.headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "http://" not in page.text
        assert "https://" not in page.text
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path.startswith(("/api", "/admin", "/sandboxes")):
                    codes = [
                        code
                        for one in operation["responses"].values()
                        for code in one.get("x-error-codes", ())
                    ]
                    is_signed = "signature_invalid" in codes
                    credential = set() if is_signed else {"missing_api_key", "invalid_api_key"}
                    assert credential | {"internal", "store_unavailable"} <= set(codes)
        keys = (await client.get("/.well-known/jwks.json")).json()["keys"]
        assert [key["kty"] for key in keys] == ["OKP"]
        assert "d" not in keys[0]


async def test_workers_need_the_join_token(fleet: Fleet) -> None:
    path = "/internal/workers/wk-2/heartbeat"
    async with fleet.anonymous() as client:
        assert (await client.post(path)).status_code == 401
        wrong = {"Authorization": "Bearer " + "x" * 24}
        assert (await client.post(path, headers=wrong)).status_code == 403
        right = {"Authorization": f"Bearer {JOIN_TOKEN}"}
        assert (await client.post(path, headers=right, content=b"{}")).status_code == 400


async def test_the_internal_listener_serves_metrics_only(open_fleet: OpenFleet) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with open_fleet(metrics_listen_port=port), httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert "sandfleet_leader_term" in answer.text
        assert (await client.get(f"http://127.0.0.1:{port}/api/sandboxes")).status_code == 404
