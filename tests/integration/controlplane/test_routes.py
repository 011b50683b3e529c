"""A route that is out of date is a hint to look again, never an answer."""

from __future__ import annotations

from dataclasses import replace

from sandfleet.controlplane.proxy.readiness import locate_by_row
from sandfleet.model.ids import SandboxId
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.coordination import Route

from .conftest import Fleet, OpenFleet

NOBODY = "http://127.0.0.1:1"


async def mislead(fleet: Fleet, sandbox: str, *, url: str | None = None, epochs_back: int = 0) -> Route:
    """Put a wrong route into the shared cache; return the right one."""
    row = await fleet.edge.plane.stores.sandboxes.get_any(SandboxId(sandbox))
    right = await locate_by_row(fleet.edge, row.organisation_id, sandbox)
    assert not isinstance(right, Sandbox)
    await fleet.edge.plane.routes.forget(right.sandbox_id)
    wrong = replace(right, worker_url=url or right.worker_url, epoch=right.epoch - epochs_back)
    await fleet.edge.plane.routes.put(wrong)
    return right


async def test_every_call_finds_its_worker_again(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    base = f"/api/sandboxes/{sandbox}"
    for wrong in ({"url": NOBODY}, {"epochs_back": 1}):
        for number, (method, path, given) in enumerate(
            (
                ("POST", "/exec/run", {"json": {"cmd": "echo x"}}),
                ("POST", "/exec/run-async", {"json": {"cmd": "echo x"}}),
                ("PUT", "/files?path=/tmp/x", {"content": b"content"}),
                ("GET", "/files?path=/tmp/x", {}),
                ("GET", "/files/list?path=/tmp", {}),
                ("POST", "/files/mkdir?path=/tmp/d", {}),
                ("DELETE", "/files?path=/tmp/x", {}),
            )
        ):
            right = await mislead(fleet, sandbox, **wrong)
            answer = await fleet.client.request(method, base + path, **given)
            assert answer.status_code in (200, 202, 204), (number, answer.text)
            assert await fleet.edge.plane.routes.get(SandboxId(sandbox)) == right
    assert (await fleet.client.get(f"{base}/files?path=/tmp/x")).status_code == 404


async def test_a_worker_that_stays_away_is_not_the_end_of_its_sandboxes(open_fleet: OpenFleet) -> None:
    async with open_fleet(sandbox_wait_s=0.5) as fleet:
        sandbox = await fleet.create()
        row = await fleet.edge.plane.stores.sandboxes.get_any(SandboxId(sandbox))
        assert row.worker_id is not None
        worker = await fleet.edge.plane.stores.workers.get(row.worker_id)
        away = replace(worker, http_url=NOBODY, sequence=2**40)
        await fleet.edge.plane.stores.workers.register(away)
        await fleet.edge.plane.routes.forget(row.id)
        answer = await fleet.client.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["status"] == "running"


async def test_another_tenants_cached_route_is_not_found(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    assert await fleet.edge.plane.routes.get(SandboxId(sandbox)) is not None
    async with await fleet.other_organisation() as other:
        answer = await other.post(f"/api/sandboxes/{sandbox}/exec/run", json={"cmd": "echo"})
        assert (answer.status_code, answer.json()["error"]) == (404, "sandbox not found")
