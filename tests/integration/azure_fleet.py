"""A fleet's pool on a server that speaks as Azure does (`arm_server`), for tests."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from tests.integration import arm_server
from tests.integration.arm_server import GROUP, KEY, SUBSCRIPTION, VM, Arm

from sandfleet.adapters.machines.azure import AzureMachinePool
from sandfleet.adapters.machines.azure_config import (
    AzureClients,
    AzureConfig,
    AzureImages,
    AzureSize,
    open_clients,
)
from sandfleet.adapters.machines.tags import FLEET_TAG
from sandfleet.model.launch import MachineSize
from sandfleet.testing.builders import NOON, resources
from sandfleet.testing.clock import JumpingClock

SUBNET = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/networks/v/subnets/s"
SIZES = (
    AzureSize(MachineSize("azure", "usual", resources(14000), region="here"), "Standard_D4s_v5"),
    AzureSize(
        MachineSize("azure", "spot", resources(14000), region="here"), "Standard_D4s_v5", True, "2", 128
    ),
)


class TestToken(SansIOHTTPPolicy[Any, Any]):
    """Shows the token also to a server without TLS, as Azure's own policy does not."""

    __test__ = False

    def on_request(self, request: Any) -> None:
        request.http_request.headers["Authorization"] = f"Bearer {arm_server.TOKEN}"


class Azure:
    """One subscription with an image, and a fleet of its own for each test."""

    def __init__(self, arm: Arm, clients: AzureClients) -> None:
        self.arm, self.clients = arm, clients
        self.fleet = f"fleet-{secrets.token_hex(4)}"
        self.clock = JumpingClock(now=NOON)

    def pool(self, *, fleet: str | None = None, **settings: Any) -> AzureMachinePool:
        config = AzureConfig(
            fleet=fleet or self.fleet,
            subscription_id=SUBSCRIPTION,
            resource_group=GROUP,
            location="here",
            subnet_id=SUBNET,
            images=AzureImages("images", "worker", GROUP),
            sizes=SIZES,
            ssh_public_key="ssh-ed25519 AAAA",
            **{"poll_s": 0, "has_address": True, "custom_data": "#cloud-config", **settings},
        )
        return AzureMachinePool(config, self.clients, clock=self.clock)

    def refuse(self, reply: arm_server.Reply, *, method: str = "PUT", kind: str = VM) -> None:
        self.arm.answers[method, kind] = deque([reply])

    async def end(self, pool: AzureMachinePool, machine_id: str) -> None:
        """Ask for its end until it is gone."""
        for _ in range(20):
            if await pool.terminate(machine_id, term=1):
                return
            self.arm.tick()
        raise AssertionError(f"{machine_id} is there still: {sorted(self.arm.resources)}")

    def left(self) -> list[str]:
        """Return the types of what the fleet has there, but for what says that a launch has ended."""
        return sorted(
            kind
            for (kind, _), body in self.arm.resources.items()
            if kind != KEY and body.get("tags", {}).get(FLEET_TAG) == self.fleet
        )


@contextmanager
def serving() -> Iterator[tuple[Arm, AzureClients]]:
    """Run such a server, with clients of it."""
    with arm_server.serving() as arm:
        credential = SimpleNamespace(get_token=lambda *scopes, **more: AccessToken(arm_server.TOKEN, 2**33))
        clients = open_clients(
            SUBSCRIPTION, credential=credential, endpoint=arm.url, authentication_policy=TestToken()
        )
        yield arm, clients
        clients.compute.close()
        clients.network.close()


def begun_anew(arm: Arm, clients: AzureClients) -> Azure:
    """Return a fleet of its own, where there is nothing but images."""
    arm.begin_anew()
    for number in range(1, 4):
        arm.add_image(f"0.0.{number}", "v0")
    arm.add_image("1.0.0", "v1")
    return Azure(arm, clients)
