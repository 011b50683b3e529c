"""Fleet tokens over real HTTP: who may call a worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.worker.harness import WORKER_ID, ControlPlaneKey, RunningWorker, a_worker_with

from sandfleet.adapters.clock import SystemClock
from sandfleet.worker.authentication import FleetTokens

ID = "sb-one"


async def _status(worker: RunningWorker, authorization: str) -> tuple[int, str | None]:
    headers = {"Authorization": authorization}
    url = f"{worker.url}/vms/{ID}"
    async with worker.http.get(url, headers=headers) as answer:
        return answer.status, (await answer.json()).get("code")


@pytest.mark.parametrize(
    "claims", [{"aud": "wk-other"}, {"iss": "somebody"}, {"exp": "soon"}, {"valid_s": -60}]
)
async def test_a_token_for_somebody_else_or_of_yesterday_is_refused(claims: dict[str, object]) -> None:
    async with a_worker_with() as worker:
        assert await _status(worker, f"Bearer {worker.key.token(**claims)}") == (401, "invalid_token")


async def test_other_keys_other_algorithms_and_nonsense_are_refused() -> None:
    async with a_worker_with() as worker:
        good = worker.key.token()
        unsigned = "eyJhbGciOiJub25lIn0." + good.split(".")[1] + "."
        for token in (ControlPlaneKey().token(), unsigned, good[:-4] + "AAAA", "nonsense", ""):
            assert await _status(worker, f"Bearer {token}") == (401, "invalid_token")
        assert await _status(worker, f"bearer {good}") == (200, None)
        assert await _status(worker, f"Basic {good}") == (401, "invalid_token")


async def test_a_token_of_an_older_term_is_refused() -> None:
    async with a_worker_with() as worker:
        assert await _status(worker, f"Bearer {worker.key.token(term=5)}") == (200, None)
        assert await _status(worker, f"Bearer {worker.key.token(term=4)}") == (409, "stale_term")
        assert await _status(worker, f"Bearer {worker.key.token()}") == (200, None)


async def test_health_and_metrics_need_no_token() -> None:
    async with a_worker_with() as worker:
        await worker.run(ID, {"cmd": "true"})
        headers = {"Authorization": ""}
        async with worker.http.get("/health", headers=headers) as answer:
            assert (answer.status, (await answer.json())["role"]) == (200, "worker")
        async with worker.http.get("/metrics", headers=headers) as answer:
            text = await answer.text()
        assert 'sandfleet_worker_vms{state="running"} 1.0' in text
        assert "sandfleet_worker_memory_committed_mib 1024.0" in text
        assert 'sandfleet_worker_calls_total{operation="exec_run",outcome="ok"}' in text


async def test_keys_and_term_survive_the_process(tmp_path: Path) -> None:
    file, key, clock = tmp_path / "keys.json", ControlPlaneKey(), SystemClock()
    FleetTokens(worker_id=WORKER_ID, clock=clock, file=file).learn(public_keys=key.jwks, term=9)
    again = FleetTokens(worker_id=WORKER_ID, clock=clock, file=file)
    assert again.term == 9
    assert again.verify(f"Bearer {key.token()}").term == 0
    file.write_bytes(b"{broken")
    assert FleetTokens(worker_id=WORKER_ID, clock=clock, file=file).term == 0
