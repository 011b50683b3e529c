"""`/openapi.json`, `/docs` and `/.well-known/jwks.json`."""

from __future__ import annotations

from importlib.resources import files

from sandfleet.controlplane.http.answers import Answer, json_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint

OPENAPI_PATH = "/openapi.json"
_PAGE = files(__package__).joinpath("docs_page.html")


async def docs(call: Call) -> Answer:
    """Return the page; it loads nothing but the document of this server."""
    headers = {
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; connect-src 'self'"
    }
    return Answer(200, _PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=headers)


async def public_keys(call: Call) -> Answer:
    """Return the keys by which sandbox tokens are verified."""
    return json_answer(200, call.edge.plane.public_keys, headers={"Cache-Control": "max-age=300"})


ENDPOINTS = (
    Endpoint("GET", ("/docs",), docs, "The reference as a page", Access.OPEN, {200: "text/html"}),
    Endpoint(
        "GET",
        ("/.well-known/jwks.json",),
        public_keys,
        "Public keys of sandbox tokens",
        Access.OPEN,
        {200: dict},
    ),
)
