"""The table of paths."""

from __future__ import annotations

import pytest

from sandfleet.controlplane.app import ALL_ENDPOINTS
from sandfleet.controlplane.http.routing import RouteTable


@pytest.fixture
def table() -> RouteTable[str]:
    made: RouteTable[str] = RouteTable()
    made.add("GET", "/api/sandboxes", "list")
    made.add("POST", "/api/sandboxes", "create")
    made.add("GET", "/api/sandboxes/{id}", "get")
    made.add("POST", "/api/sandboxes/{id}/exec/run", "run")
    made.add("GET", "/api/sandboxes/{id}/exec/{sid}/result", "result")
    return made


def test_a_trailing_slash_is_ignored(table: RouteTable[str]) -> None:
    with_slash, without = table.match("/api/sandboxes/"), table.match("/api/sandboxes")
    assert with_slash is not None
    assert with_slash == without


def test_names_get_their_values(table: RouteTable[str]) -> None:
    match = table.match("/api/sandboxes/sb-1/exec/ex-2/result")
    assert match is not None
    assert match.values == {"id": "sb-1", "sid": "ex-2"}
    assert match.template == "/api/sandboxes/{id}/exec/{sid}/result"


def test_a_literal_wins_but_does_not_hide_what_is_behind_a_name(table: RouteTable[str]) -> None:
    run, result = table.match("/api/sandboxes/a/exec/run"), table.match("/api/sandboxes/a/exec/run/result")
    assert run is not None
    assert run.targets == {"POST": "run"}
    assert result is not None
    assert result.values["sid"] == "run"


@pytest.mark.parametrize("path", ["/", "", "/api", "/api/sandboxes//exec/run", "/api/sandboxes/a/b", "//"])
def test_unknown_paths(table: RouteTable[str], path: str) -> None:
    assert table.match(path) is None


def test_the_methods_of_a_path(table: RouteTable[str]) -> None:
    match = table.match("/api/sandboxes")
    assert match is not None
    assert match.methods == ("GET", "HEAD", "OPTIONS", "POST")


def test_the_same_twice_is_a_mistake(table: RouteTable[str]) -> None:
    with pytest.raises(ValueError, match="twice"):
        table.add("GET", "/api/sandboxes", "again")


def test_every_data_plane_path_is_there_under_both_prefixes() -> None:
    paths = {path for endpoint in ALL_ENDPOINTS for path in endpoint.paths}
    unprefixed = {path for path in paths if path.startswith("/sandboxes/")}
    assert unprefixed
    assert {"/api" + path for path in unprefixed} <= paths
