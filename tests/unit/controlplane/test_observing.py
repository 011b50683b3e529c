"""What every request leaves behind: its line and its figures."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from sandfleet.controlplane.http import observing
from sandfleet.controlplane.http.drain import Drain
from sandfleet.controlplane.http.log_lines import AccessLog, json_line
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.http.observing import Observed
from sandfleet.testing.clock import JumpingClock

KEY = "osb_" + "a1b2" * 10


class Lines:
    """Where the lines go."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def write(self, text: str, /) -> int:
        assert text.endswith("\n")
        assert text.count("\n") == 1
        self.written.append(json.loads(text))
        return len(text)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> AccessLog:
    kept = AccessLog()
    monkeypatch.setattr(observing, "access_log", kept)
    return kept


@pytest.fixture
def lines(log: AccessLog) -> Lines:
    kept = Lines()
    log.send_to(kept, least=logging.INFO)
    return kept


async def observe(metrics: Metrics, *, route: str = "/api/x", **changes: Any) -> Observed:
    async def send(_: object) -> None:
        """Nobody reads it."""

    scope = {"type": "http", "method": "GET", "path": "/api/x", "query_string": b"", "headers": [], **changes}
    observed = Observed(scope, send, clock=JumpingClock(), metrics=metrics, drain=Drain())
    observed.route = route
    await observed.send({"type": "http.response.start", "status": 200, "headers": []})
    observed.end()
    return observed


async def test_whatever_is_the_clients_own_text_is_redacted(lines: Lines) -> None:
    await observe(
        Metrics(),
        path=f"/api/{KEY}\n",
        query_string=f"token=abc&x={KEY}".encode(),
        headers=[(b"x-request-id", KEY.encode())],
        method=KEY,
    )
    (line,) = lines.written
    assert KEY not in json.dumps(line)
    assert "abc" not in line["query"]
    assert (line["method"], line["status"], line["level"]) == ("other", 200, "info")
    assert line["timestamp"] == "2026-01-01T00:00:00.000000Z"


async def test_what_asks_all_the_time_is_quiet(log: AccessLog, lines: Lines) -> None:
    for least in (logging.INFO, logging.DEBUG, logging.WARNING):
        log.send_to(lines, least=least)
        await observe(Metrics(), route="/health")
        await observe(Metrics(), route="/api/x")
    said = [(line["route"], line["level"]) for line in lines.written]
    assert said == [("/api/x", "info"), ("/health", "debug"), ("/api/x", "info")]


async def test_a_log_that_goes_nowhere_costs_no_request(log: AccessLog) -> None:
    assert (await observe(Metrics())).request_id


async def test_requests_are_counted_by_route_method_and_status(lines: Lines) -> None:
    metrics = Metrics()
    for method in ("GET", "GET", "POST", "E"):
        await observe(metrics, method=method)
    counted = {
        (sample.labels["method"], sample.labels["status"]): sample.value
        for metric in metrics.requests.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counted == {("GET", "200"): 2, ("POST", "200"): 1, ("other", "200"): 1}
    (observed,) = metrics.request_seconds.collect()
    assert [s.value for s in observed.samples if s.name.endswith("_count")] == [4]


@pytest.mark.parametrize("value", ["\udcff", 2**70, {1, 2}, ValueError("x"), b"\xff", object])
def test_no_value_keeps_a_line_from_being_written(value: object) -> None:
    assert '"event"' in json_line({"event": "x", "value": value})
