"""A worker process's parts around a fake host, served over real HTTP."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import aiohttp
import msgspec
from joserfc import jwt
from joserfc.jwk import OKPKey

from sandfleet.adapters.clock import SystemClock
from sandfleet.ports.hypervisor import Hypervisor, MachineOrder
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.wire.worker_messages import StartVm, StopVm
from sandfleet.worker.adoption import adopt
from sandfleet.worker.app import create_app
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.background import Background
from sandfleet.worker.host import Host
from sandfleet.worker.http_server import http_server, listen
from sandfleet.worker.settings import HostLimits
from sandfleet.worker.warm_pool import WarmPool

WORKER_ID = "wk-test"
DEFAULT = MachineOrder(template="base", memory_mib=1024, cpu_count=1, disk_mib=20480)
ORDER = StartVm(epoch=1, template="base", memory_mib=1024, cpu_count=1, disk_mib=20480)
LIMITS = HostLimits(memory_budget_mib=8192)


class ControlPlaneKey:
    """The fleet's key pair, as the control plane holds it."""

    def __init__(self) -> None:
        self._key = OKPKey.generate_key("Ed25519", auto_kid=True)

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [self._key.as_dict(private=False)]}

    def token(self, *, valid_s: float = 300, **claims: object) -> str:
        expires = SystemClock().now() + timedelta(seconds=valid_s)
        payload = {"iss": "sandfleet", "aud": WORKER_ID, "exp": int(expires.timestamp()), **claims}
        with catch_warnings():
            simplefilter("ignore")
            return jwt.encode(
                {"alg": "EdDSA", "kid": self._key.kid}, payload, self._key, algorithms=["EdDSA"]
            )


@dataclass
class RunningWorker:
    """One worker and a client that speaks for the control plane."""

    host: Host
    tokens: FleetTokens
    key: ControlPlaneKey
    http: aiohttp.ClientSession
    url: str

    async def start(self, sandbox_id: str, **changes: Any) -> tuple[int, dict[str, Any]]:
        order = msgspec.structs.replace(ORDER, **changes)
        async with self.http.put(f"/vms/{sandbox_id}", data=msgspec.json.encode(order)) as answer:
            return answer.status, await answer.json()

    async def stop(self, sandbox_id: str, **order: Any) -> tuple[int, dict[str, Any]]:
        body = msgspec.json.encode(StopVm(**{"epoch": 1, **order}))
        async with self.http.delete(f"/vms/{sandbox_id}", data=body) as answer:
            return answer.status, await answer.json()

    async def vm(self, sandbox_id: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(f"/vms/{sandbox_id}") as answer:
            return answer.status, await answer.json()

    async def run(
        self, sandbox_id: str, body: Any, *, verb: str = "run", exec_id: str | None = None, epoch: int = 1
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Sandfleet-Epoch": str(epoch)}
        if exec_id is not None:
            headers["X-Sandfleet-Exec-Id"] = exec_id
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        url = f"/sandboxes/{sandbox_id}/exec/{verb}"
        async with self.http.post(url, data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    def files(self, method: str, sandbox_id: str, path: str | None, *, part: str = "", **more: Any) -> Any:
        """Return the request's context manager."""
        query = {} if path is None else {"path": path}
        headers = {"X-Sandfleet-Epoch": "1", **more.pop("headers", {})}
        return self.http.request(
            method, f"/sandboxes/{sandbox_id}/files{part}", params=query, headers=headers, **more
        )


@asynccontextmanager
async def a_worker(
    hypervisor: Hypervisor,
    *,
    limits: HostLimits = LIMITS,
    pool_size: int = 0,
    is_adopted: bool = True,
    key: ControlPlaneKey | None = None,
) -> AsyncIterator[RunningWorker]:
    """Serve a worker on a free port."""
    key = key or ControlPlaneKey()
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as directory, listen("127.0.0.1", 0) as listener:
        tokens = FleetTokens(worker_id=WORKER_ID, clock=clock, file=Path(directory) / "public_keys.json")
        tokens.learn(public_keys=key.jwks, term=0)
        async with Background() as background:
            host = Host(
                worker_id=WORKER_ID,
                hypervisor=hypervisor,
                clock=clock,
                background=background,
                limits=limits,
                pool=WarmPool(order=DEFAULT, size=pool_size),
            )
            host.templates = {info.name: info for info in await hypervisor.prepare()}
            if is_adopted:
                await adopt(host)
            server = http_server(create_app(host, tokens), stop_grace_s=1)
            serving = background.start(server.serve(sockets=[listener]), name="http")
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            headers = {"Authorization": f"Bearer {key.token(valid_s=3600)}"}
            async with aiohttp.ClientSession(url, headers=headers) as http:
                yield RunningWorker(host=host, tokens=tokens, key=key, http=http, url=url)
            server.should_exit = True
            await serving.settled()


@asynccontextmanager
async def a_worker_with(sandbox_id: str = "sb-one", **options: Any) -> AsyncIterator[RunningWorker]:
    """Serve a worker on a fake host that already runs one sandbox."""
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, **options) as worker:
        status, body = await worker.start(sandbox_id)
        assert status == 200, body
        yield worker


async def until(is_true: Callable[[], object], *, within_s: float = 60) -> None:
    """Wait for something that gives no sign of its own."""
    async with asyncio.timeout(within_s):
        while not is_true():
            await asyncio.sleep(0.005)


def fake_host(worker: RunningWorker) -> FakeHypervisor:
    """Return the fake behind the worker."""
    assert isinstance(worker.host.hypervisor, FakeHypervisor)
    return worker.host.hypervisor


def small_limits(**changes: Any) -> HostLimits:
    """Return limits with some of them changed."""
    return replace(LIMITS, **changes)
