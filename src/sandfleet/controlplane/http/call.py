"""One request on its way through the edge, and the declaration of the endpoint that serves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel
from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from sandfleet.controlplane.http.answers import Answer
from sandfleet.controlplane.http.authentication import Access, Principal
from sandfleet.model.ids import OrganisationId
from sandfleet.wire.public_api import RequestBody

if TYPE_CHECKING:
    from sandfleet.controlplane.edge import Edge


class Streamed(Protocol):
    """An answer that is sent piece by piece."""

    async def send_to(self, call: Call) -> None:
        """Send head and body."""
        ...


_NO_QUERY = QueryParams("")


def _fixes_nothing() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A documented query parameter."""

    name: str
    text: str
    is_required: bool = False
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


LIST_PARAMETERS = (
    Parameter("limit", "1 to 1000", schema={"type": "integer", "minimum": 1, "default": 100}),
    Parameter("cursor", "from the `Link` of the page before; opaque"),
)
"""Of every list that is newest first."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one method on one path takes, gives and asks for; routes and the document are made of it.

    `fixes` mints the ids that must be the same when a request is resumed under its
    idempotency key; `resumes` says that the work itself goes by these ids, so that
    an attempt with an uncertain outcome is joined again instead of being forgotten.
    """

    method: str
    paths: tuple[str, ...]
    handler: Callable[[Call], Awaitable[Answer | Streamed]]
    summary: str
    access: Access
    answers: Mapping[int, Any]
    errors: tuple[str, ...] = ()
    body: type[RequestBody] | None = None
    parameters: tuple[Parameter, ...] = ()
    changes: bool = False
    fixes: Callable[[], Mapping[str, str]] = _fixes_nothing
    resumes: bool = False
    is_padded: bool = False
    takes_bytes: bool = False

    @property
    def is_joined(self) -> bool:
        """Whether beginning the work again under the same ids joins what goes on."""
        return self.fixes is not _fixes_nothing


@dataclass(frozen=True, slots=True)
class Claim:
    """The idempotency key that a request has claimed."""

    scope: tuple[OrganisationId, str, str, str]
    holder: str


class Call:
    """One request: what was sent, who sent it, and the ports to serve it."""

    def __init__(
        self, edge: Edge, endpoint: Endpoint, *, scope: Scope, request_id: str, values: Mapping[str, str]
    ) -> None:
        self.edge = edge
        self.endpoint = endpoint
        self.scope = scope
        self.request_id = request_id
        self.values = values
        self.headers = Headers(scope=scope)
        self.received_at = edge.plane.clock.monotonic()
        self.caller: Principal | None = None
        self.model: BaseModel | None = None
        self.fixed: Mapping[str, Any] = {}
        self.is_resumed = False
        """Whether an earlier attempt of this very request fixed the ids, and may have begun."""
        self.is_settled = False
        """Whether what goes by the ids has ended for certain: nothing of it is to be joined again."""
        self.claim: Claim | None = None
        self.receive: Receive
        self.send: Send

    @cached_property
    def query(self) -> QueryParams:
        """The query parameters."""
        query = self.scope["query_string"]
        return QueryParams(query) if query else _NO_QUERY

    @property
    def method(self) -> str:
        """The request's method, HEAD included."""
        return str(self.scope["method"])

    @property
    def principal(self) -> Principal:
        """The caller of an endpoint that asks for a credential."""
        if self.caller is None:
            raise LookupError("an endpoint without credential asked for its caller")
        return self.caller

    @property
    def origin(self) -> str:
        """The public origin: the setting, else what the client called."""
        settings = self.edge.plane.settings
        if settings.public_url is not None:
            return settings.origin
        host = self.headers.get("host")
        return f"{self.scope.get('scheme', 'http')}://{host}" if host else settings.origin
