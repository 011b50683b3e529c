"""Machines of Amazon EC2, made from one launch template (port: `ports.machine_pool.MachinePool`).

# Facts
RunInstances with a client token that was used before returns the instance of the first time, whatever has
become of it since, until a day after its end. An instance that has ended is described for about an hour more.
Tags named in RunInstances are there from the first moment. A spot instance that will be taken away in two
minutes has the status `marked-for-termination` on its request; other notices are events of its status.

# Design
The token is fleet and launch, so EC2 itself keeps two servers from making two machines of one launch. What
the launch template says (network, role, user data) is the operator's; size, image and tags are named here.
The image is the operator's own with the tag `sandfleet:version`. EC2 knows no terms: see the port's rule 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandfleet.adapters.machines.ec2_errors import launch_error, unreachable
from sandfleet.adapters.machines.ec2_parts import Ec2Parts
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG, SIZE_TAG, VERSION_TAG
from sandfleet.adapters.machines.terms import newest_of
from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import MachineRefused
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState

SPOT_NOTICE = timedelta(minutes=2)
CALLS_AT_ONCE = 4
_TOKEN_LENGTH_MAX = 64
_STATES: Mapping[str, MachineState] = {
    "pending": MachineState.STARTING,
    "running": MachineState.RUNNING,
    "shutting-down": MachineState.ENDING,
    "stopping": MachineState.ENDING,
    "stopped": MachineState.ENDING,
}
_TAGGED = ("instance", "volume", "network-interface")
_ENDING_EVENTS = frozenset({"instance-stop", "instance-retirement"})
# A call and its repetition end well within a tick of the loops that make them.
_CONNECT_S, _READ_S, _ATTEMPTS_MAX = 5, 15, 2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ec2Size:
    """What is bought for one size."""

    size: MachineSize
    instance_type: str
    is_spot: bool = False


@dataclass(frozen=True, slots=True)
class Ec2Config:
    """Where, and for whom. Credentials come from where Amazon's own tools take them."""

    fleet: str
    region: str
    launch_template: str
    """Its id (`lt-…`) or its name."""
    sizes: Sequence[Ec2Size]
    endpoint_url: str | None = None


class Ec2MachinePool:
    """One fleet's instances in one region."""

    name = "ec2"

    def __init__(self, config: Ec2Config) -> None:
        self.sizes = tuple(one.size for one in config.sizes)
        self._config = config
        self._by_name = {one.size.name: one for one in config.sizes}
        self._term = 0
        self._threads = OwnThreads("pool-ec2", at_once=CALLS_AT_ONCE)
        self._client = boto3.client(
            "ec2",
            region_name=config.region,
            endpoint_url=config.endpoint_url,
            config=Config(
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                retries={"total_max_attempts": _ATTEMPTS_MAX, "mode": "standard"},
            ),
        )
        self._parts = Ec2Parts(self._client, config.fleet)

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Run an instance under the launch's token; first look for the one that it has."""
        self._term = newest_of(self._term, term)
        return await self._threads.run(lambda: self._launch(order))

    async def list(self) -> Sequence[Machine]:
        """Return the fleet's instances but those that are terminated."""

        def work() -> Sequence[Machine]:
            found = [one for one in self._described() if one["State"]["Name"] in _STATES]
            notices = self._notices([one["InstanceId"] for one in found])
            machines = [_machine(one, ends_at=notices.get(one["InstanceId"])) for one in found]
            return sorted(machines, key=lambda one: one.id)

        return await self._called(work)

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Terminate the instance, if it is the fleet's."""
        self._term = newest_of(self._term, term)

        def work() -> bool:
            found = next(self._described({"Name": "instance-id", "Values": [machine_id]}), None)
            if found is None or found["State"]["Name"] == "terminated":
                return True
            # Asked after every second for a minute or more: EC2 counts calls that change something dearly.
            if found["State"]["Name"] != "shutting-down":
                self._client.terminate_instances(InstanceIds=[machine_id])
            return False

        return await self._called(work)

    async def parts(self) -> Sequence[MachinePart]:
        """Return what no instance holds."""
        return await self._called(self._parts.loose)

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Delete or release it, if it is the fleet's and nothing holds it."""
        self._term = newest_of(self._term, term)
        return await self._called(lambda: self._parts.remove(part))

    def _launch(self, order: MachineOrder) -> Machine:
        token = f"{self._config.fleet}/{order.launch_id}"
        wanted = self._by_name.get(order.size)
        if wanted is None or len(token) > _TOKEN_LENGTH_MAX:
            raise _broken(f"there is no size {order.size}, or {token} is too long for a token")
        try:
            tag = {"Name": f"tag:{LAUNCH_TAG}", "Values": [order.launch_id]}
            found = next(self._described(tag), None) or self._run(order, wanted, token)
        except (ClientError, BotoCoreError) as error:
            raise launch_error(error) from error
        if found["State"]["Name"] not in _STATES:
            raise _broken(f"the machine of {order.launch_id} has ended already")
        return _machine(found, ends_at=None)

    def _run(self, order: MachineOrder, wanted: Ec2Size, token: str) -> Mapping[str, Any]:
        tags = {
            "Name": f"{self._config.fleet} {order.launch_id}",
            FLEET_TAG: self._config.fleet,
            LAUNCH_TAG: order.launch_id,
            SIZE_TAG: order.size,
            VERSION_TAG: order.version,
        }
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        spot = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
        template = self._config.launch_template
        named = "LaunchTemplateId" if template.startswith("lt-") else "LaunchTemplateName"
        begun = self._client.run_instances(
            ClientToken=token,
            MinCount=1,
            MaxCount=1,
            ImageId=self._image(order.version),
            InstanceType=wanted.instance_type,
            LaunchTemplate={named: template, "Version": "$Default"},
            TagSpecifications=[{"ResourceType": kind, "Tags": listed} for kind in _TAGGED],
            **({"InstanceMarketOptions": spot} if wanted.is_spot else {}),
        )
        instance: Mapping[str, Any] = begun["Instances"][0]
        return instance

    def _image(self, version: str) -> str:
        """Return the newest image of the version: a token is only good for the same one."""
        images = self._client.describe_images(
            Owners=["self"],
            Filters=[
                {"Name": f"tag:{VERSION_TAG}", "Values": [version]},
                {"Name": "state", "Values": ["available"]},
            ],
        )["Images"]
        if not images:
            raise _broken(f"there is no image with the tag {VERSION_TAG}={version}")
        return str(max(images, key=lambda one: (one["CreationDate"], one["ImageId"]))["ImageId"])

    def _described(self, *filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the fleet's instances, terminated ones among them."""
        own = {"Name": f"tag:{FLEET_TAG}", "Values": [self._config.fleet]}
        pages = self._client.get_paginator("describe_instances").paginate(Filters=[own, *filters])
        for page in pages:
            for reservation in page["Reservations"]:
                yield from reservation["Instances"]

    def _notices(self, instance_ids: Sequence[str]) -> Mapping[str, datetime]:
        """Return when EC2 will take which of them away."""
        if not instance_ids:
            return {}
        notices: dict[str, datetime] = {}
        pages = self._client.get_paginator("describe_spot_instance_requests").paginate(
            Filters=[{"Name": "status-code", "Values": ["marked-for-termination"]}]
        )
        for page in pages:
            for request in page["SpotInstanceRequests"]:
                if "InstanceId" in request:
                    notices[request["InstanceId"]] = request["Status"]["UpdateTime"] + SPOT_NOTICE
        events = self._client.get_paginator("describe_instance_status").paginate(
            Filters=[{"Name": "event.code", "Values": sorted(_ENDING_EVENTS)}]
        )
        for page in events:
            for status in page["InstanceStatuses"]:
                times = [one["NotBefore"] for one in status.get("Events", ()) if _is_ending(one)]
                if times:
                    notices.setdefault(status["InstanceId"], min(times))
        return notices

    async def _called(self, work: Callable[[], T]) -> T:
        try:
            return await self._threads.run(work)
        except (ClientError, BotoCoreError) as error:
            raise unreachable(error) from error


def _machine(instance: Mapping[str, Any], *, ends_at: datetime | None) -> Machine:
    tags = {one["Key"]: one["Value"] for one in instance.get("Tags", ())}
    return Machine(
        id=instance["InstanceId"],
        launch_id=LaunchId(tags[LAUNCH_TAG]) if LAUNCH_TAG in tags else None,
        size=tags.get(SIZE_TAG, ""),
        state=_STATES[instance["State"]["Name"]],
        launched_at=instance["LaunchTime"],
        ends_at=ends_at,
    )


def _is_ending(event: Mapping[str, Any]) -> bool:
    # An event that is over stays for a while, with the fact in its description.
    is_over = str(event.get("Description", "")).startswith(("[Completed]", "[Canceled]"))
    return event.get("Code") in _ENDING_EVENTS and not is_over and "NotBefore" in event


def _broken(message: str) -> MachineRefused:
    return MachineRefused(message, failure=LaunchFailure.BROKEN)
