"""An Azure Resource Manager for tests: the resources, operations, errors and pages that the pool meets.

It answers Azure's own client over HTTP. Nothing here takes time: what is under way goes on with `tick`.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.integration import json_server
from tests.integration.json_server import Headers, Reply

TOKEN = "a-test-token"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP = "workers"
MADE_AT = "2026-01-01T12:00:00.1234567+00:00"
PAGE = 2
TICKS = 2
"""So long an operation goes on."""
_PATH = re.compile(
    rf"/subscriptions/{SUBSCRIPTION}/resourceGroups/(?P<group>[^/]+)/providers/(?P<type>[^/]+/[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?P<rest>/.*)?",
    re.IGNORECASE,
)
VM, KEY, DISK = (
    "Microsoft.Compute/virtualMachines",
    "Microsoft.Compute/sshPublicKeys",
    "Microsoft.Compute/disks",
)
CARD, ADDRESS = "Microsoft.Network/networkInterfaces", "Microsoft.Network/publicIPAddresses"
GALLERY = "Microsoft.Compute/galleries"
_TYPES = {one.lower(): one for one in (VM, KEY, DISK, CARD, ADDRESS, GALLERY)}


def error_of(status: int, code: str, message: str, **headers: str) -> Reply:
    """Azure's form of an error."""
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, _error(code, message)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


@dataclass
class Operation:
    """One that goes on after its call was answered."""

    key: tuple[str, str]
    is_end: bool
    ticks: int = TICKS
    error: dict[str, Any] | None = None
    status: str = "InProgress"


@dataclass
class Arm:
    """What one subscription has, and what is to go wrong there."""

    url: str = ""
    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """By type and name."""
    answers: dict[tuple[str, str], deque[Reply]] = field(default_factory=dict)
    """By method and type: answers that come instead."""
    lost: deque[tuple[str, str]] = field(default_factory=deque)
    """Calls that are carried out once and answered with an error of the server."""
    allocations: deque[tuple[str, str]] = field(default_factory=deque)
    """Code and text with which the next machines fail after their call was accepted."""
    failing_ends: deque[tuple[str, str]] = field(default_factory=deque)
    """The same of the next ends of machines."""
    leaves: frozenset[str] = frozenset()
    """Types of parts that stay when their machine goes."""
    reserved: dict[str, int] = field(default_factory=dict)
    """Cards that are reserved for so many ticks more."""
    reserves_for: int = 0
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, type and name."""
    operations: dict[str, Operation] = field(default_factory=dict)
    goes_on: threading.Event = field(default_factory=threading.Event)
    """Until it is set calls are taken and not answered, if the server hangs."""
    hangs: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def add_image(
        self, name: str, version: str, *, published: str = MADE_AT, state: str = "Succeeded"
    ) -> None:
        """Have an image version in the gallery."""
        key = (f"{GALLERY}/images/worker/versions", name)
        self.resources[key] = {
            "id": f"{self._id(GALLERY, 'images')}/images/worker/versions/{name}",
            "name": name,
            "tags": {"sandfleet:version": version},
            "properties": {
                "provisioningState": state,
                "publishingProfile": {"publishedDate": published},
            },
        }

    def begin_anew(self) -> None:
        """Have nothing there, and nothing to go wrong."""
        vars(self).update(vars(Arm(self.url)))

    def tick(self) -> None:
        """Let what is under way go on."""
        with self.lock:
            self.reserved = {name: left - 1 for name, left in self.reserved.items() if left > 1}
            for operation in self.operations.values():
                if operation.status == "InProgress":
                    operation.ticks -= 1
                    if operation.ticks <= 0:
                        self._complete(operation)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the resources of a type, by name."""
        with self.lock:
            return [deepcopy(body) for (its, _), body in sorted(self.resources.items()) if its == kind]

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Reply:
        """Answer one request."""
        if self.hangs:
            self.goes_on.wait()
        with self.lock:
            if headers.get("Authorization") != f"Bearer {TOKEN}":
                return error_of(401, "InvalidAuthenticationToken", "The access token is invalid.")
            url = urlsplit(target)
            query = {key.lower(): values[0] for key, values in parse_qs(url.query).items()}
            if "api-version" not in query:
                return error_of(400, "MissingApiVersionParameter", "The api-version is required.")
            if "/operations/" in url.path or "/results/" in url.path:
                return self._operation(url.path)
            found = _PATH.fullmatch(url.path)
            if found is None or found["type"].lower() not in _TYPES:
                return error_of(404, "InvalidResourceType", f"{url.path} could not be found.")
            if found["group"].lower() != GROUP:
                return error_of(404, "ResourceGroupNotFound", f"Resource group '{found['group']}' not found.")
            kind, name = _TYPES[found["type"].lower()], found["name"] or ""
            self.calls.append((method, kind, name))
            waiting = self.answers.get((method, kind))
            if waiting:
                return waiting.popleft()
            reply = self._do(method, (kind, name), found["rest"] or "", query, (headers, body))
            if (method, kind) in self.lost:
                self.lost.remove((method, kind))
                return error_of(500, "InternalServerError", "Encountered internal server error.")
            return reply

    def _do(
        self,
        method: str,
        key: tuple[str, str],
        rest: str,
        query: Mapping[str, str],
        asked: tuple[Mapping[str, str], Any],
    ) -> Reply:
        kind, name = key
        if kind == GALLERY:
            return self._page(f"{GALLERY}{rest}", query, rest=f"/{name}{rest}")
        if not name:
            return self._page(kind, query)
        if method == "PUT":
            return self._put(key, *asked)
        found = self.resources.get(key)
        if method == "DELETE":
            return self._delete(key, found)
        if found is None:
            return error_of(404, "ResourceNotFound", f"The Resource '{kind}/{name}' was not found.")
        return (200, {}, found["view"]) if rest == "/instanceView" else (200, {}, _told(found))

    def _page(self, kind: str, query: Mapping[str, str], *, rest: str = "") -> Reply:
        found = [_told(body) for (its, _), body in sorted(self.resources.items()) if its == kind]
        begin = int(query.get("$skiptoken", "0"))
        page: dict[str, Any] = {"value": found[begin : begin + PAGE]}
        if begin + PAGE < len(found):
            path = (
                f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{kind.split('/images')[0]}"
            )
            version = query["api-version"]
            page["nextLink"] = f"{self.url}{path}{rest}?api-version={version}&$skiptoken={begin + PAGE}"
        return 200, {}, page

    def _put(self, key: tuple[str, str], headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        kind, name = key
        before = self.resources.get(key)
        if before is not None and headers.get("If-None-Match") == "*":
            return error_of(412, "PreconditionFailed", f"The resource '{name}' exists already.")
        made = {**deepcopy(body), "id": self._id(kind, name), "name": name, "type": kind}
        made.setdefault("properties", {})
        if kind == KEY:
            self.resources[key] = made
            return (201 if before is None else 200), {}, _told(made)
        if before is not None:
            if before["properties"]["provisioningState"] == "Deleting":
                return error_of(409, "AnotherOperationInProgress", f"{name} is being deleted.")
            return 200, {}, _told(before)
        refused = self._attach(made) if kind == VM else self._join(made)
        if refused is not None:
            return refused
        made["properties"] |= {"provisioningState": "Creating" if kind == VM else "Succeeded"}
        if kind == VM:
            made["properties"]["timeCreated"] = MADE_AT
        self.resources[key] = made
        operation = Operation(key, is_end=False)
        if kind == VM and self.allocations:
            operation.error = _error(*self.allocations.popleft())
        return 201, self._begin(operation, kind), _told(made)

    def _join(self, made: dict[str, Any]) -> Reply | None:
        """Have a card hold its address."""
        for one in made["properties"].get("ipConfigurations", ()):
            public = one["properties"].get("publicIPAddress")
            if public is None:
                continue
            found = self._named(public["id"])
            if found is None:
                return error_of(404, "InvalidResourceReference", f"{public['id']} was not found.")
            found["properties"]["ipConfiguration"] = {"id": made["id"]}
            found["properties"]["deleteOption"] = public["properties"]["deleteOption"]
        return None

    def _attach(self, made: dict[str, Any]) -> Reply | None:
        """Have a machine hold its card and its disk, which gets its tags."""
        properties = made["properties"]
        image = properties["storageProfile"]["imageReference"]["id"]
        if not any(image == body["id"] for body in self.resources.values()):
            return error_of(404, "GalleryImageNotFound", f"The gallery image {image} is not available.")
        reference = properties["networkProfile"]["networkInterfaces"][0]
        card = self._named(reference["id"])
        if card is None:
            return error_of(400, "InvalidResourceReference", f"{reference['id']} was not found.")
        if card["properties"].get("virtualMachine"):
            return error_of(400, "NicInUse", f"Network Interface {reference['id']} is used already.")
        card["properties"]["virtualMachine"] = {"id": made["id"]}
        disk = properties["storageProfile"]["osDisk"]
        self.resources[DISK, disk["name"]] = {
            "id": self._id(DISK, disk["name"]),
            "name": disk["name"],
            "tags": made["tags"],
            "managedBy": made["id"],
            "properties": {
                "provisioningState": "Succeeded",
                "diskState": "Attached",
                "timeCreated": MADE_AT,
            },
        }
        return None

    def _delete(self, key: tuple[str, str], found: dict[str, Any] | None) -> Reply:
        kind = key[0]
        if found is None:
            return 204, {}, None
        if kind == KEY:
            del self.resources[key]
            return 200, {}, None
        held = self._held(kind, found)
        if held is not None:
            return held
        operation = Operation(key, is_end=True)
        if kind == VM:
            for one in self.operations.values():
                if one.key == key and one.status == "InProgress":
                    one.status = "Canceled"
            if self.failing_ends:
                operation.error = _error(*self.failing_ends.popleft())
        found["properties"]["provisioningState"] = "Deleting"
        return 202, self._begin(operation, kind), None

    def _held(self, kind: str, found: dict[str, Any]) -> Reply | None:
        """Say what holds a resource that is to end."""
        name, properties = found["name"], found["properties"]
        if kind == CARD and name in self.reserved:
            return error_of(400, "NicReservedForAnotherVm", "Nic(s) in request is reserved for 180 seconds.")
        if kind == CARD and properties.get("virtualMachine"):
            return error_of(400, "NicInUse", f"Network Interface {name} is used by an existing resource.")
        if kind == ADDRESS and properties.get("ipConfiguration"):
            return error_of(400, "PublicIPAddressCannotBeDeleted", f"Public IP address {name} is in use.")
        if kind == DISK and found.get("managedBy"):
            return error_of(409, "OperationNotAllowed", f"Disk {name} is attached to a VM.")
        return None

    def _complete(self, operation: Operation) -> None:
        found = self.resources[operation.key]
        operation.status = "Succeeded" if operation.error is None else "Failed"
        if operation.error is not None:
            told = operation.error["error"]
            found["properties"]["provisioningState"] = "Failed"
            status = {"code": f"ProvisioningState/failed/{told['code']}", "level": "Error"}
            found["view"] = {"statuses": [status | {"message": told["message"]}]}
        elif operation.is_end:
            del self.resources[operation.key]
            self._let_go(found, with_machine=operation.key[0] == VM)
        else:
            found["properties"]["provisioningState"] = "Succeeded"

    def _let_go(self, gone: dict[str, Any], *, with_machine: bool) -> None:
        """Free what a resource that went has held, and take along what is to go with a machine."""
        for (kind, name), body in list(self.resources.items()):
            properties = body.get("properties", {})
            holders = {
                CARD: (properties.get("virtualMachine") or {}).get("id"),
                ADDRESS: (properties.get("ipConfiguration") or {}).get("id"),
                DISK: body.get("managedBy"),
            }
            if holders.get(kind) != gone["id"]:
                continue
            for holder in ("virtualMachine", "ipConfiguration"):
                properties.pop(holder, None)
            body.pop("managedBy", None)
            if kind == DISK:
                properties["diskState"] = "Unattached"
            if with_machine and kind not in self.leaves and _goes_along(kind, body, gone):
                del self.resources[kind, name]
                self._let_go(body, with_machine=True)
            elif kind == CARD and self.reserves_for:
                self.reserved[name] = self.reserves_for

    def _begin(self, operation: Operation, kind: str) -> Headers:
        number = f"op-{next(self._numbers)}"
        self.operations[number] = operation
        base = f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/{kind.split('/')[0]}/locations/here"
        followed = f"{base}/operations/{number}?api-version=2024-07-01"
        headers = {"Azure-AsyncOperation": followed, "Retry-After": "0"}
        if operation.is_end:
            headers["Location"] = f"{base}/results/{number}?api-version=2024-07-01"
        return headers

    def _operation(self, path: str) -> Reply:
        operation = self.operations[path.rpartition("/")[2]]
        if "/results/" in path:
            return (202 if operation.status == "InProgress" else 204), {"Location": self.url + path}, None
        return 200, {}, {"status": operation.status, **(operation.error or {})}

    def _named(self, resource_id: str) -> dict[str, Any] | None:
        found = [body for body in self.resources.values() if body["id"].lower() == resource_id.lower()]
        return found[0] if found else None

    def _id(self, kind: str, name: str) -> str:
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{kind}/{name}"


def _told(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "view"}


def _goes_along(kind: str, body: dict[str, Any], gone: dict[str, Any]) -> bool:
    """Whether a part is to go with what held it."""
    if kind == ADDRESS:
        return bool(body["properties"].get("deleteOption") == "Delete")
    held = gone["properties"]
    options = {
        CARD: held["networkProfile"]["networkInterfaces"][0]["properties"] if kind == CARD else {},
        DISK: held["storageProfile"]["osDisk"] if kind == DISK else {},
    }
    return bool(options[kind].get("deleteOption") == "Delete")


@contextmanager
def serving() -> Iterator[Arm]:
    """Run it."""
    arm = Arm()
    with json_server.serving(arm.answer) as arm.url:
        yield arm
