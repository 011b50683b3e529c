"""What clouds announce to a machine about itself: asked of endpoints on real sockets, told to the fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.integration.worker.fake_control_plane import a_control_plane
from tests.integration.worker.harness import a_worker_with
from tests.integration.worker.test_heartbeat import a_sender

from sandfleet.adapters.metadata.azure import AzureMetadata
from sandfleet.adapters.metadata.ec2 import Ec2Metadata
from sandfleet.adapters.metadata.endpoint import ANSWER_BYTES_MAX, MetadataEndpoint
from sandfleet.model.errors import Unavailable
from sandfleet.ports.announcements import Announcement
from sandfleet.testing.clock import JumpingClock
from sandfleet.worker.announcements import Announcements
from sandfleet.worker.notice import Notice

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RETIRED = {
    "NotBefore": "1 Jan 2030 12:00:00 GMT",
    "Code": "instance-retirement",
    "Description": "the hardware fails",
    "EventId": "instance-event-1",
    "State": "active",
}
PREEMPTED = {
    "EventId": "e-1",
    "EventStatus": "Scheduled",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["vm-other", "vm-mine"],
    "NotBefore": "Tue, 01 Jan 2030 12:00:00 GMT",
    "Description": "",
    "EventSource": "Platform",
}
INTERRUPTION = "/latest/meta-data/spot/instance-action"
EVENTS = "/latest/meta-data/events/maintenance/scheduled"
SCHEDULED = "/metadata/scheduledevents"


@dataclass
class Cloud:
    """Answers as both clouds do: EC2 to its token, Azure to its header."""

    endpoint: MetadataEndpoint
    answers: dict[str, Any] = field(default_factory=dict)
    token: str = "token-1"
    status: int = 200

    async def answer(self, request: web.Request) -> web.Response:
        if self.status != 200:
            return web.Response(status=self.status)
        if request.path == "/latest/api/token":
            is_asked_well = (
                request.method == "PUT" and "X-aws-ec2-metadata-token-ttl-seconds" in request.headers
            )
            return web.Response(text=self.token) if is_asked_well else web.Response(status=400)
        if (
            request.path.startswith("/latest/")
            and request.headers.get("X-aws-ec2-metadata-token") != self.token
        ):
            return web.Response(status=401)
        if request.path.startswith("/metadata/") and request.headers.get("Metadata") != "true":
            return web.Response(status=400)
        if request.path == "/metadata/instance/compute/name":
            return web.Response(text="vm-mine")
        if request.path not in self.answers:
            return web.Response(status=404)
        found = self.answers[request.path]
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)


@asynccontextmanager
async def a_cloud() -> AsyncIterator[Cloud]:
    async def answer(request: web.Request) -> web.Response:
        return await cloud.answer(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        cloud = Cloud(MetadataEndpoint(session, url=str(server.make_url("/"))))
        yield cloud


async def test_ec2_tells_the_earlier_of_an_interruption_and_an_event() -> None:
    async with a_cloud() as cloud:
        ec2 = Ec2Metadata(cloud.endpoint)
        assert await ec2.announced() is None
        over = {**RETIRED, "State": "completed"}
        harmless = {**RETIRED, "Code": "system-maintenance"}
        cloud.answers[EVENTS] = [over, harmless]
        assert await ec2.announced() is None
        cloud.answers[EVENTS] = [over, RETIRED]
        assert await ec2.announced() == Announcement(NOON, "the hardware fails")
        cloud.answers[INTERRUPTION] = {"action": "terminate", "time": "2030-01-01T11:58:00Z"}
        soon = Announcement(NOON - timedelta(minutes=2), "spot interruption (terminate)")
        assert await ec2.announced() == soon
        cloud.answers[EVENTS] = "no JSON"
        assert await ec2.announced() == soon


async def test_a_token_that_has_run_out_is_asked_for_anew() -> None:
    async with a_cloud() as cloud:
        ec2 = Ec2Metadata(cloud.endpoint)
        assert await ec2.announced() is None
        cloud.token, cloud.answers[EVENTS] = "token-2", [RETIRED]
        for _ in range(2):
            try:
                found = await ec2.announced()
            except Unavailable:
                continue
            assert found == Announcement(NOON, "the hardware fails")
            break
        else:
            raise AssertionError("it goes on with the old token")


async def test_azure_tells_of_this_machine_alone_and_of_what_ends_it() -> None:
    async with a_cloud() as cloud:
        azure = AzureMetadata(cloud.endpoint)
        cloud.answers[SCHEDULED] = {"DocumentIncarnation": 1, "Events": []}
        assert await azure.announced() is None
        frozen = {**PREEMPTED, "EventType": "Freeze"}
        others = {**PREEMPTED, "Resources": ["vm-other"]}
        cloud.answers[SCHEDULED] = {"DocumentIncarnation": 2, "Events": [frozen, others]}
        assert await azure.announced() is None
        cloud.answers[SCHEDULED]["Events"].append(PREEMPTED)
        assert await azure.announced() == Announcement(NOON, "Preempt")
        begun = {
            **PREEMPTED,
            "EventType": "Reboot",
            "NotBefore": "",
            "EventStatus": "Started",
            "Description": "host",
        }
        cloud.answers[SCHEDULED]["Events"].append(begun)
        assert await azure.announced() == Announcement(None, "Reboot: host")


@pytest.mark.parametrize(
    "answer", ["no JSON", "x" * (ANSWER_BYTES_MAX + 1), {"Events": [{"EventId": 1}]}, 500]
)
async def test_what_is_no_answer_says_nothing(answer: Any) -> None:
    async with a_cloud() as cloud:
        cloud.answers[SCHEDULED] = cloud.answers[EVENTS] = answer
        cloud.status = answer if isinstance(answer, int) else 200
        await neither_says_anything(cloud.endpoint)


async def test_where_nobody_listens_nothing_is_said() -> None:
    async with aiohttp.ClientSession() as session:
        await neither_says_anything(MetadataEndpoint(session, url="http://127.0.0.1:1"))


async def neither_says_anything(endpoint: MetadataEndpoint) -> None:
    for source in (Ec2Metadata(endpoint), AzureMetadata(endpoint)):
        with pytest.raises(Unavailable):
            await source.announced()


async def test_the_last_word_stands_while_the_cloud_is_silent_and_until_it_is_taken_back() -> None:
    async with a_cloud() as cloud:
        clock = JumpingClock(now=NOON - timedelta(seconds=90))
        announcements = Announcements(AzureMetadata(cloud.endpoint), clock=clock, interval_s=5)
        assert announcements.notice(now=clock.now()) is None
        cloud.answers[SCHEDULED] = {"Events": [PREEMPTED]}
        assert await announcements.look()
        assert announcements.notice(now=clock.now()) == Notice(90, "Preempt")
        cloud.status = 500
        assert not await announcements.look()
        assert announcements.notice(now=NOON + timedelta(seconds=1)) == Notice(0, "Preempt")
        cloud.status = 200
        cloud.answers[SCHEDULED] = {"Events": [{**PREEMPTED, "NotBefore": ""}]}
        assert await announcements.look()
        assert announcements.notice(now=clock.now()) == Notice(120, "Preempt")
        cloud.answers[SCHEDULED] = {"Events": []}
        assert await announcements.look()
        assert announcements.notice(now=clock.now()) is None


async def test_the_next_heartbeat_tells_it() -> None:
    async with (
        a_cloud() as cloud,
        a_worker_with() as worker,
        a_control_plane() as plane,
        a_sender(worker, plane) as sender,
    ):
        announcements = Announcements(AzureMetadata(cloud.endpoint), clock=worker.host.clock, interval_s=5)
        sender._announcements = announcements
        assert await sender.beat()
        cloud.answers[SCHEDULED] = {"Events": [PREEMPTED]}
        assert await announcements.look()
        assert await sender.beat()
        assert [(one.ends_in_s is None, one.ends_because) for one in plane.beats] == [
            (True, ""),
            (False, "Preempt"),
        ]
