"""The EC2 pool on a server that speaks EC2: what every pool keeps, and what Amazon says of its machines."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime

import boto3
import pytest
from tests.integration.ec2_server import Front, error_body, serving

from sandfleet.adapters.machines.ec2 import Ec2Config, Ec2MachinePool, Ec2Size
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG, VERSION_TAG
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.testing.builders import resources
from sandfleet.testing.conformance import machine_pool
from sandfleet.testing.conformance.machine_pool import FIRST, Check, Subject

REGION = "eu-north-1"
SIZES = (
    Ec2Size(MachineSize("ec2", "usual", resources(14000), region=REGION, price_per_hour=0.2), "m5.xlarge"),
    Ec2Size(
        MachineSize("ec2", "spot", resources(14000), region=REGION, price_per_hour=0.07), "m5.xlarge", True
    ),
)
ORDER = MachineOrder(LaunchId("launch-1"), "usual", "v1")
NOTICE = """<DescribeSpotInstanceRequestsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<spotInstanceRequestSet><item><spotInstanceRequestId>sir-1</spotInstanceRequestId><instanceId>{}</instanceId>
<state>active</state><status><code>marked-for-termination</code><updateTime>2030-01-01T12:00:00.000Z</updateTime>
<message>It will be terminated.</message></status></item></spotInstanceRequestSet>
</DescribeSpotInstanceRequestsResponse>"""
RETIREMENT = """<DescribeInstanceStatusResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<instanceStatusSet><item><instanceId>{}</instanceId><eventsSet>
<item><code>instance-retirement</code><description>[Completed] over</description>
<notBefore>2030-01-01T08:00:00.000Z</notBefore></item>
<item><code>system-reboot</code><description>soon</description><notBefore>2030-01-01T09:00:00.000Z</notBefore></item>
<item><code>instance-retirement</code><description>soon</description>
<notBefore>2030-01-02T10:00:00.000Z</notBefore></item>
</eventsSet></item></instanceStatusSet></DescribeInstanceStatusResponse>"""


SHUTTING_DOWN = b"""<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState><code>32</code>
<name>shutting-down</name></instanceState></item></instancesSet></item></reservationSet>
</DescribeInstancesResponse>"""


class Amazon:
    """One account, with a launch template and an image, and a fleet of its own for each test."""

    def __init__(self, url: str, front: Front) -> None:
        self.url, self.front = url, front
        self.fleet = f"fleet-{secrets.token_hex(4)}"
        self.client = boto3.client("ec2", region_name=REGION, endpoint_url=url)

    def prepare(self) -> None:
        seed = self.client.describe_images()["Images"][0]["ImageId"]
        instance = self.client.run_instances(ImageId=seed, MinCount=1, MaxCount=1)["Instances"][0][
            "InstanceId"
        ]
        image = self.client.create_image(InstanceId=instance, Name=f"worker-{self.fleet}")["ImageId"]
        self.client.create_tags(Resources=[image], Tags=[{"Key": VERSION_TAG, "Value": "v1"}])
        self.client.create_launch_template(
            LaunchTemplateName="workers", LaunchTemplateData={"UserData": "aGVsbG8="}
        )

    def pool(self, *, fleet: str | None = None, template: str = "workers") -> Ec2MachinePool:
        return Ec2MachinePool(Ec2Config(fleet or self.fleet, REGION, template, SIZES, endpoint_url=self.url))

    def refuse(self, code: str, *, status: int = 400, times: int = 1) -> None:
        body = error_body(code, "you may not")
        self.front.answers["RunInstances"] = deque([(status, body)] * times)

    def asked(self, launch_id: str) -> dict[str, str]:
        """Return the one call that ran the machine of a launch."""
        token = f"{self.fleet}/{launch_id}"
        (call,) = [one for one in self.front.calls if one.get("ClientToken") == token]
        return call

    def leave_parts(self, launch_id: str) -> dict[PartKind, str]:
        """Have a volume, a network interface and an address of the fleet that nothing holds."""
        subnet = self.client.describe_subnets()["Subnets"][0]
        made = {
            PartKind.DISK: self.client.create_volume(AvailabilityZone=subnet["AvailabilityZone"], Size=8)[
                "VolumeId"
            ],
            PartKind.NETWORK_CARD: self.client.create_network_interface(SubnetId=subnet["SubnetId"])[
                "NetworkInterface"
            ]["NetworkInterfaceId"],
            PartKind.ADDRESS: self.client.allocate_address(Domain="vpc")["AllocationId"],
        }
        tags = [{"Key": FLEET_TAG, "Value": self.fleet}, {"Key": LAUNCH_TAG, "Value": launch_id}]
        self.client.create_tags(Resources=list(made.values()), Tags=tags)
        return made

    def parts_of(self, machine_id: str) -> list[MachinePart]:
        """Return what an instance holds; the tags are put there, as moto does not for interfaces."""
        found = self.client.describe_instances(InstanceIds=[machine_id])["Reservations"][0]["Instances"][0]
        held = [
            (PartKind.DISK, found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]),
            (PartKind.NETWORK_CARD, found["NetworkInterfaces"][0]["NetworkInterfaceId"]),
        ]
        self.client.create_tags(
            Resources=[name for _, name in held], Tags=[{"Key": FLEET_TAG, "Value": self.fleet}]
        )
        return [MachinePart(kind, name, None) for kind, name in held]

    def instances(self) -> list[dict[str, object]]:
        found = self.client.describe_instances(Filters=[{"Name": f"tag:{FLEET_TAG}", "Values": [self.fleet]}])
        return [one for reservation in found["Reservations"] for one in reservation["Instances"]]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Front]]:
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    with serving() as (url, front):
        Amazon(url, front).prepare()
        yield url, front
    patch.undo()


@pytest.fixture
def amazon(server: tuple[str, Front]) -> Iterator[Amazon]:
    url, front = server
    yield Amazon(url, front)
    front.answers.clear()
    front.lost.clear()


@pytest.mark.parametrize("check", machine_pool.CHECKS, ids=lambda check: check.__name__)
async def test_the_ec2_pool_conforms(amazon: Amazon, check: Check) -> None:
    async def pass_time() -> None:
        await asyncio.sleep(0.05)

    async def leave_parts() -> int:
        return len(amazon.leave_parts(FIRST))

    await check(
        Subject(
            amazon.pool(),
            again=amazon.pool,
            stranger=amazon.pool(fleet=f"{amazon.fleet}-other"),
            pass_time=pass_time,
            refuse={
                LaunchFailure.QUOTA: lambda: amazon.refuse("VcpuLimitExceeded"),
                LaunchFailure.STOCKOUT: lambda: amazon.refuse(
                    "InsufficientInstanceCapacity", status=500, times=2
                ),
                LaunchFailure.THROTTLED: lambda: amazon.refuse("RequestLimitExceeded", status=503, times=2),
                LaunchFailure.BROKEN: lambda: amazon.refuse("InvalidParameterValue"),
            },
            remembers_terms=False,
            leave_parts=leave_parts,
            parts_of=lambda machine: amazon.parts_of(machine.id),
        )
    )


async def test_machine_disk_and_network_card_carry_the_tags_and_the_template_is_used(amazon: Amazon) -> None:
    await amazon.pool().launch(ORDER, term=1)
    (instance,) = amazon.instances()
    assert instance["InstanceType"] == "m5.xlarge"
    asked = amazon.asked("launch-1")
    assert asked["LaunchTemplate.LaunchTemplateName"] == "workers"
    kinds = [asked[f"TagSpecification.{number}.ResourceType"] for number in (1, 2, 3)]
    assert kinds == ["instance", "volume", "network-interface"]
    for number in (1, 2, 3):
        keys = {
            asked[f"TagSpecification.{number}.Tag.{place}.Key"]: asked[
                f"TagSpecification.{number}.Tag.{place}.Value"
            ]
            for place in range(1, 6)
        }
        assert (keys[FLEET_TAG], keys[LAUNCH_TAG], keys[VERSION_TAG]) == (amazon.fleet, "launch-1", "v1")
    assert "InstanceMarketOptions.MarketType" not in asked


async def test_a_launch_whose_answer_was_lost_is_found_again(amazon: Amazon) -> None:
    """The client's own repetition goes by the token; so does the next call, which also finds the tag."""
    amazon.front.lost.add("RunInstances")
    machine = await amazon.pool().launch(ORDER, term=1)
    assert (await amazon.pool().launch(ORDER, term=1)).id == machine.id
    assert len(amazon.instances()) == 1


async def test_two_launches_at_once_whose_tags_are_not_seen_yet_are_one_by_their_token(
    amazon: Amazon,
) -> None:
    """EC2 describes what was just begun a moment later."""
    nothing = (
        b'<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet/>'
        b"</DescribeInstancesResponse>"
    )
    amazon.front.answers["DescribeInstances"] = deque([(200, nothing)] * 2)
    one, other = await asyncio.gather(*(amazon.pool().launch(ORDER, term=1) for _ in range(2)))
    assert one.id == other.id
    assert len(amazon.instances()) == 1


@pytest.mark.parametrize(("code", "status"), [("InternalError", 500), ("IdempotentParameterMismatch", 400)])
async def test_what_may_have_been_carried_out_is_no_refusal(amazon: Amazon, code: str, status: int) -> None:
    amazon.refuse(code, status=status, times=2)
    with pytest.raises(PoolUnreachable):
        await amazon.pool().launch(ORDER, term=1)


async def test_part_of_the_machines_is_never_told_as_all(amazon: Amazon) -> None:
    pool = amazon.pool()
    machine = await pool.launch(ORDER, term=1)
    for action in ("DescribeInstances", "DescribeSpotInstanceRequests", "DescribeInstanceStatus"):
        amazon.front.answers[action] = deque([(403, error_body("UnauthorizedOperation", "no"))])
        with pytest.raises(PoolUnreachable):
            await pool.list()
    amazon.front.answers["TerminateInstances"] = deque([(500, error_body("InternalError", "no"))] * 2)
    with pytest.raises(PoolUnreachable):
        await pool.terminate(machine.id, term=1)
    assert [one.state for one in await pool.list()] != []


async def test_an_unreachable_region_says_nothing() -> None:
    config = Ec2Config("fleet", REGION, "workers", SIZES, endpoint_url="http://127.0.0.1:9")
    pool = Ec2MachinePool(config)
    for call in (pool.launch(ORDER, term=1), pool.list(), pool.terminate("i-1", term=1)):
        with pytest.raises(PoolUnreachable):
            await call


async def test_a_version_without_an_image_is_refused(amazon: Amazon) -> None:
    with pytest.raises(MachineRefused, match="sandfleet:version=v9") as refused:
        await amazon.pool().launch(MachineOrder(LaunchId("launch-1"), "usual", "v9"), term=1)
    assert refused.value.failure is LaunchFailure.BROKEN
    assert amazon.instances() == []


async def test_the_notice_of_a_spot_machine_is_told_with_its_time(amazon: Amazon) -> None:
    pool = amazon.pool()
    machine = await pool.launch(MachineOrder(LaunchId("launch-1"), "spot", "v1"), term=1)
    usual = await pool.launch(MachineOrder(LaunchId("launch-2"), "usual", "v1"), term=1)
    assert [call.get("InstanceMarketOptions.MarketType") for call in amazon.front.calls][-8:].count(
        "spot"
    ) <= 1
    assert {one.ends_at for one in await pool.list()} == {None}
    amazon.front.answers["DescribeSpotInstanceRequests"] = deque([(200, NOTICE.format(machine.id).encode())])
    seen = {one.id: one.ends_at for one in await pool.list()}
    assert seen == {machine.id: datetime(2030, 1, 1, 12, 2, tzinfo=UTC), usual.id: None}


async def test_a_retirement_is_told_and_neither_one_that_is_over_nor_a_reboot(amazon: Amazon) -> None:
    pool = amazon.pool()
    machine = await pool.launch(ORDER, term=1)
    amazon.front.answers["DescribeInstanceStatus"] = deque([(200, RETIREMENT.format(machine.id).encode())])
    (seen,) = await pool.list()
    assert seen.ends_at == datetime(2030, 1, 2, 10, tzinfo=UTC)


async def test_a_machine_that_somebody_stopped_is_no_running_one(amazon: Amazon) -> None:
    pool = amazon.pool()
    machine = await pool.launch(ORDER, term=1)
    amazon.client.stop_instances(InstanceIds=[machine.id])
    (seen,) = await pool.list()
    assert (seen.id, seen.state) == (machine.id, MachineState.ENDING)


async def test_a_part_tells_its_launch_and_where_ec2_knows_it_its_age(amazon: Amazon) -> None:
    made = amazon.leave_parts("launch-7")
    parts = {part.kind: part for part in await amazon.pool().parts()}
    assert {kind: part.id for kind, part in parts.items()} == made
    assert {part.launch_id for part in parts.values()} == {"launch-7"}
    assert parts[PartKind.DISK].made_at is not None
    assert parts[PartKind.ADDRESS].made_at is None


@pytest.mark.parametrize(
    ("kind", "action", "code", "is_gone"),
    [
        (PartKind.DISK, "DeleteVolume", "VolumeInUse", False),
        (PartKind.DISK, "DeleteVolume", "InvalidVolume.NotFound", True),
        (PartKind.ADDRESS, "ReleaseAddress", "InvalidIPAddress.InUse", False),
    ],
)
async def test_a_part_that_is_taken_or_goes_between_look_and_end_is_no_fault(
    amazon: Amazon, kind: PartKind, action: str, code: str, is_gone: bool
) -> None:
    amazon.leave_parts("launch-7")
    pool = amazon.pool()
    part = next(one for one in await pool.parts() if one.kind is kind)
    amazon.front.answers[action] = deque([(400, error_body(code, "no"))])
    assert await pool.remove(part, term=1) is is_gone
    amazon.front.answers[action] = deque([(403, error_body("UnauthorizedOperation", "no"))])
    with pytest.raises(PoolUnreachable):
        await pool.remove(part, term=1)


async def test_the_launch_template_may_be_named_by_its_id(amazon: Amazon) -> None:
    template = amazon.client.describe_launch_templates()["LaunchTemplates"][0]["LaunchTemplateId"]
    await amazon.pool(template=template).launch(ORDER, term=1)
    assert amazon.asked("launch-1")["LaunchTemplate.LaunchTemplateId"] == template


async def test_an_instance_that_shuts_down_is_only_looked_at(amazon: Amazon) -> None:
    amazon.front.answers["DescribeInstances"] = deque([(200, SHUTTING_DOWN)])
    before = len(amazon.front.calls)
    assert not await amazon.pool().terminate("i-1", term=1)
    assert [call["Action"] for call in amazon.front.calls[before:]] == ["DescribeInstances"]
