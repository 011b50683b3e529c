"""Every place where a credential may stand, and which kind it is taken for."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers, QueryParams

from sandfleet.controlplane.http.credentials import CredentialKind, find_credential
from sandfleet.model.errors import Unauthorised

KEY = "osb_" + "a1" * 20
TOKEN = "head.claims.signature"


def found(
    headers: dict[str, str], query: str = "", *, query_key: bool = True, admin_get: bool = False
) -> str:
    credential = find_credential(
        Headers(headers), QueryParams(query), query_key=query_key, admin_get=admin_get
    )
    return f"{credential.kind}:{credential.value}"


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({"X-API-Key": KEY}, "", f"{CredentialKind.KEY}:{KEY}"),
        ({"X-API-Key": TOKEN}, "", f"{CredentialKind.TOKEN}:{TOKEN}"),
        ({}, f"api_key={KEY}", f"{CredentialKind.KEY}:{KEY}"),
        ({}, f"api_key={TOKEN}", f"{CredentialKind.TOKEN}:{TOKEN}"),
        ({"Authorization": f"Bearer {TOKEN}"}, "", f"{CredentialKind.TOKEN}:{TOKEN}"),
        ({"Authorization": f"bearer  {TOKEN} "}, "", f"{CredentialKind.TOKEN}:{TOKEN}"),
        ({}, f"token={TOKEN}", f"{CredentialKind.TOKEN}:{TOKEN}"),
        ({"Authorization": f"Bearer {KEY}"}, "", f"{CredentialKind.TOKEN}:{KEY}"),
        ({"X-API-Key": KEY, "Authorization": f"Bearer {TOKEN}"}, "", f"{CredentialKind.KEY}:{KEY}"),
    ],
)
def test_places(headers: dict[str, str], query: str, expected: str) -> None:
    assert found(headers, query) == expected


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, ""), ({"X-API-Key": ""}, ""), ({"Authorization": "Basic eDp5"}, ""), ({}, "key=" + KEY)],
)
def test_nothing_usable(headers: dict[str, str], query: str) -> None:
    with pytest.raises(Unauthorised, match="missing API key") as refused:
        found(headers, query)
    assert refused.value.code == "missing_api_key"


def test_the_query_key_can_be_switched_off() -> None:
    with pytest.raises(Unauthorised):
        found({}, f"api_key={KEY}", query_key=False)


def test_admin_reads_also_take_the_short_name() -> None:
    assert found({}, f"key={KEY}", admin_get=True) == f"{CredentialKind.KEY}:{KEY}"
