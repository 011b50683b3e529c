"""Machines of Microsoft Azure in one resource group (port: `ports.machine_pool.MachinePool`).

# Facts
A name in a resource group is given once, and a machine is only made under a free one if the call says
so (`If-None-Match: *`). Making and ending are accepted at once and go on for minutes; how they end stands
in the machine itself. The network card is made before the machine. Card, address and disk go with the
machine because it is told so, but not always: an end that fails half-way leaves the machine `Failed`, or a
part.

# Design
All names come from fleet and launch. No call waits for what it has begun: a launch that was accepted is
told as starting, and one that fails later as a machine with its failure. An end is asked after by looking
for machine and parts; it is gone when none is there. What ended is written down (`azure_graves`), because
Azure forgets it. Azure knows no terms: see the port's rule 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

from sandfleet.adapters.machines import azure_bodies as bodies
from sandfleet.adapters.machines.azure_bodies import Names
from sandfleet.adapters.machines.azure_config import AzureClients, AzureConfig, AzureSize
from sandfleet.adapters.machines.azure_errors import failure_of, is_in_doubt, launch_error, unreachable
from sandfleet.adapters.machines.azure_graves import AzureGraves
from sandfleet.adapters.machines.azure_parts import AzureParts
from sandfleet.adapters.machines.azure_patience import Patience
from sandfleet.adapters.machines.tags import FLEET_TAG, LAUNCH_TAG, SIZE_TAG, VERSION_TAG
from sandfleet.adapters.machines.terms import newest_of
from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import MachineRefused, PoolUnreachable, SandfleetError
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState, PartKind
from sandfleet.ports.clock import Clock

CALLS_AT_ONCE = 4
_LAUNCH, _LIST, _END = "launch", "list", "end"
_STATES: Mapping[str, MachineState] = {
    "Creating": MachineState.STARTING,
    "Failed": MachineState.STARTING,
    "Deleting": MachineState.ENDING,
}
_FAILED = "ProvisioningState/failed"
_FAILURES_MAX = 20
"""Of so many machines of one list it is asked why they failed; of the others it is asked next time."""
_ASK_AGAIN = timedelta(minutes=1)
"""An end that was asked for is asked for again after so long: it may have been lost inside Azure."""
_PRECONDITION = 412
Found = Mapping[str, Any]
T = TypeVar("T")


class AzureMachinePool:
    """One fleet's machines in one resource group."""

    name = "azure"

    def __init__(self, config: AzureConfig, clients: AzureClients, *, clock: Clock) -> None:
        self.sizes: Sequence[MachineSize] = tuple(one.size for one in config.sizes)
        self._config, self._clock = config, clock
        self._by_name = {one.size.name: one for one in config.sizes}
        self._term = 0
        self._threads = OwnThreads("pool-azure", at_once=CALLS_AT_ONCE)
        self._machines = clients.compute.virtual_machines
        self._images = clients.compute.gallery_image_versions
        self._parts = AzureParts(clients, fleet=config.fleet, resource_group=config.resource_group)
        self._graves = AzureGraves(clients, config)
        self._patience = Patience(clock)
        self._ends: dict[str, tuple[datetime, datetime]] = {}
        """Of machines that are to end: when each was last looked at, and last asked to."""

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Begin a machine under the launch's name; first look for the one that is there."""
        self._term = newest_of(self._term, term)
        wait = self._patience.wait_of(_LAUNCH)
        if wait is not None:
            raise MachineRefused(
                f"Azure asked for {wait.total_seconds():.0f} s without launches",
                failure=LaunchFailure.THROTTLED,
            )
        return await self._called(_LAUNCH, lambda: self._launch(order), failed=launch_error)

    async def list(self) -> Sequence[Machine]:
        """Return the fleet's machines of the resource group, and why those failed that did."""

        def work() -> Sequence[Machine]:
            listed = [one.as_dict() for one in self._machines.list(self._config.resource_group)]
            found = [one for one in listed if self._is_own(one)]
            failed = [one["name"] for one in found if _state(one) == "Failed"]
            reasons = {name: self._reason(name) for name in sorted(failed)[:_FAILURES_MAX]}
            machines = [self._with_reason(self._seen(one), reasons.get(one["name"])) for one in found]
            return sorted(machines, key=lambda one: one.id)

        return await self._called(_LIST, work)

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Ask for the end of machine and parts, until none of the fleet's is there."""
        self._term = newest_of(self._term, term)
        looked_at, _ = self._ends.get(machine_id, (None, None))
        if looked_at is not None and self._since_s(looked_at) < self._config.poll_s:
            return False
        return await self._called(_END, lambda: self._end(machine_id))

    async def parts(self) -> Sequence[MachinePart]:
        """Return what no machine holds."""
        return await self._called(_LIST, self._parts.loose)

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Delete it, if it is the fleet's and nothing holds it."""
        self._term = newest_of(self._term, term)
        return await self._called(_END, lambda: self._parts.remove(part.kind, part.id))

    def _launch(self, order: MachineOrder) -> Machine:
        wanted = self._by_name.get(order.size)
        if wanted is None:
            raise _broken(f"there is no size {order.size}")
        names = bodies.names_of(self._config.fleet, order.launch_id)
        found = self._find(names.machine)
        if found is None and self._graves.has(names.machine):
            raise _broken(f"the machine of {order.launch_id} has ended already")
        if found is None:
            self._graves.forget_old(now=self._clock.now())
            found = self._begin(order, wanted, names)
        if not self._is_own(found):
            raise _broken(f"{names.machine} is somebody else's")
        return self._seen(found)

    def _begin(self, order: MachineOrder, wanted: AzureSize, names: Names) -> Found:
        tags = bodies.tags_for(self._config, order)
        image = self._image(order.version)
        try:
            ids = {"image": image, "card": self._card(wanted, names, tags)}
            body = bodies.machine(self._config, wanted, names, tags, ids=ids)
            begun = self._machines.begin_create_or_update(
                self._config.resource_group,
                names.machine,
                body,
                match_condition=MatchConditions.IfMissing,
                polling=False,
            )
            told: Found = begun.result().as_dict()
        except HttpResponseError as error:
            found = self._find(names.machine) if error.status_code == _PRECONDITION else None
            if found is None:
                self._take_back(names, launch_error(error))
                raise
            return found
        return told

    def _card(self, wanted: AzureSize, names: Names, tags: Mapping[str, str]) -> str:
        """Return the id of the machine's network card, which is made if it is not there."""
        address_id = None
        if self._config.has_address:
            address = bodies.address(self._config, wanted, tags)
            address_id = self._part(PartKind.ADDRESS, names, address)
        return self._part(
            PartKind.NETWORK_CARD, names, bodies.card(self._config, tags, address_id=address_id)
        )

    def _part(self, kind: PartKind, names: Names, body: Mapping[str, Any]) -> str:
        name = names.parts[kind]
        found = self._parts.find(kind, name)
        if found is not None:
            return str(found["id"])
        try:
            return self._parts.make(kind, name, body)
        except HttpResponseError as error:
            # Another server makes it at this moment.
            found = self._parts.find(kind, name) if is_in_doubt(error) else None
            if found is None:
                raise
            return str(found["id"])

    def _take_back(self, names: Names, refusal: SandfleetError) -> None:
        """Remove what was made for a machine that was refused; what cannot be yet is told as a part."""
        if not isinstance(refusal, MachineRefused) or refusal.failure is LaunchFailure.THROTTLED:
            return
        try:
            for kind in (PartKind.NETWORK_CARD, PartKind.ADDRESS):
                self._parts.remove(kind, names.parts[kind])
        except AzureError:
            return

    def _end(self, machine_id: str) -> bool:
        if not bodies.is_name(machine_id):
            return True
        found = self._find(machine_id)
        if found is not None and not self._is_own(found):
            return True
        parts = Names(machine_id).parts
        if found is None and all(self._parts.find(kind, name) is None for kind, name in parts.items()):
            self._ends.pop(machine_id, None)
            return True
        now = self._clock.now()
        _, asked_at = self._ends.get(machine_id, (now, None))
        if asked_at is None:
            self._graves.add(machine_id, now=now)
        if found is None:
            for kind, name in parts.items():
                self._parts.remove(kind, name)
        elif asked_at is None or _state(found) != "Deleting" or now - asked_at >= _ASK_AGAIN:
            self._delete(machine_id, is_forced=_state(found) == "Failed")
            asked_at = now
        self._ends[machine_id] = (now, asked_at or now)
        return False

    def _delete(self, name: str, *, is_forced: bool) -> None:
        try:
            self._machines.begin_delete(
                self._config.resource_group, name, force_deletion=is_forced or None, polling=False
            )
        except HttpResponseError as error:
            # Something else is under way on it, its making for instance.
            if not is_in_doubt(error):
                raise

    def _find(self, name: str) -> Found | None:
        try:
            found: Found = self._machines.get(self._config.resource_group, name).as_dict()
        except ResourceNotFoundError:
            return None
        return found

    def _image(self, version: str) -> str:
        """Return the newest image of the version, by its name or its tag."""
        images = self._config.images
        listed = self._images.list_by_gallery_image(images.resource_group, images.gallery, images.image)
        found = [one for one in (each.as_dict() for each in listed) if _is_of(one, version)]
        if not found:
            raise _broken(f"{images.gallery}/{images.image} has no image of version {version}")
        return str(max(found, key=_published)["id"])

    def _reason(self, name: str) -> tuple[LaunchFailure, str] | None:
        try:
            view = self._machines.instance_view(self._config.resource_group, name).as_dict()
        except ResourceNotFoundError:
            return None
        for status in view.get("statuses") or ():
            if str(status.get("code", "")).startswith(_FAILED):
                code = status["code"].removeprefix(_FAILED).strip("/")
                said = str(status.get("message", ""))
                return failure_of(code, said), f"{code}: {said}"
        return None

    def _seen(self, found: Found) -> Machine:
        tags = found.get("tags") or {}
        made_at = found["properties"].get("timeCreated")
        return Machine(
            id=str(found["name"]),
            launch_id=LaunchId(tags[LAUNCH_TAG]) if LAUNCH_TAG in tags else None,
            size=tags.get(SIZE_TAG, ""),
            state=_STATES.get(_state(found), MachineState.RUNNING),
            launched_at=self._clock.now() if made_at is None else datetime.fromisoformat(made_at),
        )

    def _with_reason(self, machine: Machine, reason: tuple[LaunchFailure, str] | None) -> Machine:
        return machine if reason is None else replace(machine, failure=reason[0], said=reason[1])

    def _is_own(self, found: Found) -> bool:
        return bool((found.get("tags") or {}).get(FLEET_TAG) == self._config.fleet)

    def _since_s(self, then: datetime) -> float:
        return (self._clock.now() - then).total_seconds()

    async def _called(
        self, kind: str, work: Callable[[], T], *, failed: Callable[[AzureError], Exception] = unreachable
    ) -> T:
        wait = self._patience.wait_of(kind)
        if wait is not None:
            raise PoolUnreachable(f"Azure asked for {wait.total_seconds():.0f} s of patience")
        try:
            return await self._threads.run(work)
        except AzureError as error:
            self._patience.heed(kind, error)
            raise failed(error) from error


def _state(found: Found) -> str:
    return str(found["properties"].get("provisioningState", ""))


def _is_of(image: Found, version: str) -> bool:
    is_named = version in (image["name"], (image.get("tags") or {}).get(VERSION_TAG))
    return is_named and _state(image) == "Succeeded"


def _published(image: Found) -> tuple[str, str]:
    profile = image["properties"].get("publishingProfile") or {}
    return str(profile.get("publishedDate", "")), str(image["name"])


def _broken(message: str) -> MachineRefused:
    return MachineRefused(message, failure=LaunchFailure.BROKEN)
