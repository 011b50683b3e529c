"""What serves requests: the control plane's ports, plus what only the HTTP edge needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from sandfleet.controlplane.api.rendered import Rendered
from sandfleet.controlplane.background import Background
from sandfleet.controlplane.dependencies import ControlPlane, Lifecycle
from sandfleet.controlplane.http.authentication import Authenticator
from sandfleet.controlplane.http.drain import Drain
from sandfleet.controlplane.http.keys import KeyRing
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.tokens import TokenSigner
from sandfleet.ports.data_plane import DataPlane
from sandfleet.ports.rates import RateLimiter


@dataclass(frozen=True, slots=True)
class Edge:
    """Handed to every endpoint."""

    plane: ControlPlane
    lifecycle: Lifecycle
    data_plane: DataPlane
    tokens: TokenSigner
    keys: KeyRing
    authenticator: Authenticator
    background: Background
    drain: Drain
    metrics: Metrics
    rates: RateLimiter
    rendered: Rendered = field(default_factory=Rendered)
