"""`/admin/plan`: what the planners would do, on the fleet as it is or as it is thought otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from sandfleet.controlplane.api.field_values import invalid, moment_of
from sandfleet.controlplane.api.plan_view import given_fleet
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.machine_settings import CapacitySettings
from sandfleet.controlplane.operations.plan import KINDS, Answered, Question, answer
from sandfleet.controlplane.settings import ControlPlaneSettings
from sandfleet.model.errors import BadRequest
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import MachineSize
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet_changes import AddSandboxes, AddWorkers, FleetChange, WithoutWorker
from sandfleet.planning.placement import PlacementRequest
from sandfleet.wire.public_api import RequestBody
from sandfleet.wire.public_placement import (
    DecisionBody,
    GivenFleetOrder,
    MachineSizeOrder,
    PlanBody,
    PlanOrder,
    RejectionBody,
    SizeOrder,
)

TEMPLATE = "base"
COUNT_MAX = 10_000
COUNT_PLACED_MAX = 100
"""Each of them is answered with a line for every worker."""
CHANGES_MAX = 100
SIZES_MAX = 100
_AMOUNT_MAX = 2**40
B = TypeVar("B", bound=RequestBody)


async def plan(call: Call) -> Answer:
    """Answer, and perform nothing."""
    order = cast(PlanOrder, call.model)
    if order.kind is None or order.kind not in KINDS:
        raise invalid(f"kind must be one of {', '.join(sorted(KINDS))}")
    question = _question(call, order, order.kind)
    if question.count > COUNT_PLACED_MAX:
        raise invalid(f"request.count must be at most {COUNT_PLACED_MAX}")
    return model_answer(200, _body(question, await answer(call.edge.plane, question)))


def _question(call: Call, order: PlanOrder, kind: str) -> Question:
    settings, given = call.edge.plane.settings, _parsed(order.request or {}, SizeOrder, "request")
    question = Question(
        kind=kind,
        at=call.edge.plane.clock.now() if order.at is None else moment_of(order.at, "at"),
        request=_request(given, settings),
        count=_count(given),
        worker_id=None if given.worker_id is None else WorkerId(given.worker_id),
        sandbox_id=None if given.sandbox_id is None else SandboxId(given.sandbox_id),
    )
    if order.view is not None:
        question = _with_view(question, _parsed(order.view, GivenFleetOrder, "view"), call)
    if len(order.changes or ()) > CHANGES_MAX:
        raise invalid(f"there may be {CHANGES_MAX} changes at most")
    for change in order.changes or ():
        question = _with_change(question, change, call)
    return question


def _with_view(question: Question, view: GivenFleetOrder, call: Call) -> Question:
    """Have it asked of a fleet that was described, and by its own policy where one is given."""
    plane = call.edge.plane
    question = replace(question, fleet=given_fleet(view, plane.settings, now=question.at))
    if view.policy is None:
        return question
    own = plane.capacity or CapacityPolicy(sizes=(), placement=plane.settings.placement_policy)
    return replace(question, policy=_policy(view.policy, own))


def _with_change(question: Question, change: Mapping[str, Any], call: Call) -> Question:
    """Add one of `{addWorkers}`, `{removeWorker}`, `{addSandboxes}`, `{policy}`."""
    settings = call.edge.plane.settings
    if len(change) != 1:
        raise invalid("a change has one key: addWorkers, removeWorker, addSandboxes or policy")
    ((name, value),) = change.items()
    if name == "policy":
        return replace(question, policy=_policy(value, question.policy or call.edge.plane.capacity))
    made: FleetChange
    if name == "addWorkers":
        made = _workers(_parsed(value, SizeOrder, name), settings)
    elif name == "addSandboxes":
        made = _sandboxes(_parsed(value, SizeOrder, name), settings)
    elif name == "removeWorker" and isinstance(value, str):
        made = WithoutWorker(WorkerId(value))
    else:
        raise invalid(f"there is no change {name} of that form")
    return replace(question, changes=(*question.changes, made))


def _workers(given: SizeOrder, settings: ControlPlaneSettings) -> AddWorkers:
    if given.memory_mib is None:
        raise invalid("addWorkers.memoryMB is missing")
    resources = Resources(
        _amount(given.memory_mib), _amount(given.cpu_count or 1), _amount(given.disk_mib or _AMOUNT_MAX)
    )
    size = MachineSize("thought", "worker", resources, region=given.region or settings.region)
    return AddWorkers(_count(given), size, given.template_id or TEMPLATE, given.version)


def _sandboxes(given: SizeOrder, settings: ControlPlaneSettings) -> AddSandboxes:
    worker_id = None if given.worker_id is None else WorkerId(given.worker_id)
    return AddSandboxes(_count(given), _request(given, settings), worker_id)


def _request(given: SizeOrder, settings: ControlPlaneSettings) -> PlacementRequest:
    resources = Resources(
        _amount(given.memory_mib or settings.memory_default_mb),
        _amount(given.cpu_count or 1),
        _amount(given.disk_mib or settings.disk_default_mb),
    )
    return PlacementRequest(
        resources,
        given.template_id or TEMPLATE,
        given.region or settings.region,
        worker_version=given.version,
    )


def _policy(value: Any, now: CapacityPolicy | None) -> CapacityPolicy:
    if now is None:
        raise BadRequest("this fleet has no policy of capacity: its settings name none")
    if not isinstance(value, dict):
        raise invalid("policy must be an object")
    value = {**value}
    now = replace(now, sizes=_sizes(value.pop("sizes"))) if "sizes" in value else now
    kept = {name: getattr(now, name) for name in CapacitySettings.model_fields}
    try:
        given = CapacitySettings(**{**kept, "machines_max": dict(now.machines_max), **value})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise invalid(f"policy {'.'.join(str(one) for one in first['loc'])}: {first['msg'][:200]}") from error
    return replace(now, **given.model_dump())


def _sizes(given: Any) -> Sequence[MachineSize]:
    """Return sizes of machines that are only thought of, in the order of preference."""
    if not isinstance(given, list) or len(given) > SIZES_MAX:
        raise invalid(f"policy.sizes must be a list of {SIZES_MAX} at most")
    orders = [_parsed(one, MachineSizeOrder, "policy.sizes") for one in given]
    return [_size(order, number) for number, order in enumerate(orders, start=1)]


def _size(given: MachineSizeOrder, number: int) -> MachineSize:
    pool, _, name = (given.name or f"thought/size-{number}").partition("/")
    if given.memory_mib is None or not name:
        raise invalid("each of policy.sizes has a name as pool/size, and memoryMB")
    resources = Resources(
        _amount(given.memory_mib), _amount(given.cpu_count or 1), _amount(given.disk_mib or _AMOUNT_MAX)
    )
    return MachineSize(pool, name, resources, price_per_hour=max(0.0, given.price_per_hour or 0.0))


def _parsed(value: Any, kind: type[B], where: str) -> B:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in (where, *first["loc"]))
        raise BadRequest(f"field {path}: {first['msg'][:200]}") from error


def _count(given: SizeOrder) -> int:
    count = 1 if given.count is None else given.count
    if not 1 <= count <= COUNT_MAX:
        raise invalid(f"count must be between 1 and {COUNT_MAX}")
    return count


def _amount(value: int) -> int:
    if not 1 <= value <= _AMOUNT_MAX:
        raise invalid(f"amounts must be between 1 and {_AMOUNT_MAX}")
    return value


def _body(question: Question, answered: Answered) -> PlanBody:
    said = answered.what_if
    return PlanBody(
        at=question.at,
        term=answered.term,
        view_version=answered.view_version,
        summary=said.summary,
        decisions=[
            DecisionBody(command=one.command, subject=one.subject, to=one.to, reason=one.reason)
            for one in said.decisions
        ],
        rejected=[
            RejectionBody(subject=one.subject, worker_id=one.worker_id, filter=one.filter, reason=one.reason)
            for one in said.rejected
        ],
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=("/admin/plan",),
        handler=plan,
        summary="What the planners would do on the fleet as it is, or thought otherwise; nothing is done",
        access=Access.ADMIN,
        answers={200: PlanBody},
        body=PlanOrder,
        errors=("bad_request", "invalid_argument", "not_found"),
    ),
)
