"""`/admin/orgs` and their keys."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import cast
from uuid import UUID

from sandfleet.controlplane.api.field_values import INTEGER_MAX, check_text, invalid
from sandfleet.controlplane.http.answers import Answer, list_answer, model_answer, no_content
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import LIST_PARAMETERS, Call, Endpoint
from sandfleet.controlplane.http.keys import key_digest, key_prefix, mint_key
from sandfleet.controlplane.http.paging import page_of
from sandfleet.model.errors import BadRequest, Conflict, NotFound
from sandfleet.model.ids import KeyId, OrganisationId, record_uuid
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas, Scope
from sandfleet.wire.public_api import (
    CapsAnswer,
    CapsBody,
    ChangeOrganisation,
    CreateKey,
    CreateOrganisation,
    KeyBody,
    NewKeyBody,
    OrganisationBody,
    QuotasAnswer,
    QuotasBody,
)

NAME_LENGTH_MAX = 128


def _ids() -> Mapping[str, str]:
    return {"organisation_id": record_uuid(secrets.token_bytes(16))}


async def list_organisations(call: Call) -> Answer:
    """Return all organisations, newest first."""
    found = await call.edge.plane.stores.organisations.list()
    page, headers = page_of(call, found, place=lambda one: (one.created_at, one.id))
    return list_answer([await _organisation_body(call, one) for one in page], headers=headers)


async def get_organisation(call: Call) -> Answer:
    """Return one organisation with what it uses."""
    return model_answer(200, await _organisation_body(call, await _organisation(call)))


async def create_organisation(call: Call) -> Answer:
    """Create an organisation; its name is unique."""
    body = cast(CreateOrganisation, call.model)
    if body.name is None:
        raise BadRequest("name is required")
    organisation = Organisation(
        id=OrganisationId(call.fixed["organisation_id"]),
        name=_checked_name(body.name),
        quotas=_quotas(body.quotas) or Quotas(),
        caps=_caps(body.caps) or Caps(),
        created_at=call.edge.plane.clock.now(),
    )
    organisations = call.edge.plane.stores.organisations
    try:
        await organisations.create(organisation)
    except Conflict:
        # A resumed request finds what its first attempt wrote.
        organisation = await _written_before(call, organisation)
    return model_answer(201, await _organisation_body(call, organisation))


async def _written_before(call: Call, organisation: Organisation) -> Organisation:
    try:
        return await call.edge.plane.stores.organisations.get(organisation.id)
    except NotFound as error:
        message = "an organisation of that name exists"
        raise Conflict(message, code="name_taken") from error


async def change_organisation(call: Call) -> Answer:
    """Change the name, the quotas or the caps; what is absent stays."""
    body = cast(ChangeOrganisation, call.model)
    organisation = await _organisation(call)
    changed = await call.edge.plane.stores.organisations.change(
        organisation.id,
        name=None if body.name is None else _checked_name(body.name),
        quotas=_quotas(body.quotas),
        caps=_caps(body.caps),
    )
    return model_answer(200, await _organisation_body(call, changed))


async def list_keys(call: Call) -> Answer:
    """Return the organisation's keys without their secrets."""
    organisation = await _organisation(call)
    found = await call.edge.plane.stores.organisations.list_keys(organisation.id)
    page, headers = page_of(call, found, place=lambda one: (one.created_at, one.id))
    return list_answer([_key_body(key) for key in page], headers=headers)


async def create_key(call: Call) -> Answer:
    """Create a key; its secret is in this answer only."""
    body = cast(CreateKey, call.model)
    organisation = await _organisation(call)
    try:
        scopes = frozenset(Scope(scope) for scope in (body.scopes or ["org"]))
    except ValueError as error:
        raise invalid("scopes must be of `org` and `admin`") from error
    secret = mint_key()
    key = ApiKey(
        id=KeyId(record_uuid(secrets.token_bytes(16))),
        organisation_id=organisation.id,
        name=_checked_name(body.name) if body.name else "",
        prefix=key_prefix(secret),
        scopes=scopes,
        created_at=call.edge.plane.clock.now(),
    )
    await call.edge.plane.stores.organisations.add_key(key, digest=key_digest(secret))
    call.edge.keys.forget()
    return model_answer(201, NewKeyBody(**dict(_key_body(key)), key=secret))


async def revoke_key(call: Call) -> Answer:
    """Revoke a key."""
    organisation = await _organisation(call)
    key_id = KeyId(_uuid(call.values["key"], "key not found"))
    await call.edge.plane.stores.organisations.revoke_key(organisation.id, key_id)
    call.edge.keys.forget()
    return no_content()


async def _organisation(call: Call) -> Organisation:
    organisation_id = OrganisationId(_uuid(call.values["org"], "organisation not found"))
    return await call.edge.plane.stores.organisations.get(organisation_id)


def _uuid(text: str, message: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise NotFound(message) from error


def _checked_name(name: str) -> str:
    check_text("name", name)
    if not name.strip() or len(name) > NAME_LENGTH_MAX:
        raise invalid(f"name must have 1 to {NAME_LENGTH_MAX} characters")
    return name


def _amount(value: int | None) -> int | None:
    if value is not None and not 0 <= value <= INTEGER_MAX:
        raise invalid(f"quotas and caps must be between 0 and {INTEGER_MAX}")
    return value


def _quotas(body: QuotasBody | None) -> Quotas | None:
    if body is None:
        return None
    return Quotas(
        sandboxes=_amount(body.sandboxes),
        vcpu=_amount(body.vcpu),
        memory_mib=_amount(body.memory_mb),
        disk_mib=_amount(body.disk_mb),
        creates_per_s=_amount(body.creates_per_second),
    )


def _caps(body: CapsBody | None) -> Caps | None:
    if body is None:
        return None
    return Caps(memory_mib=_amount(body.memory_mb), disk_mib=_amount(body.disk_mb))


async def _organisation_body(call: Call, organisation: Organisation) -> OrganisationBody:
    used = await call.edge.plane.stores.organisations.usage(organisation.id)
    return OrganisationBody(
        id=organisation.id,
        name=organisation.name,
        quotas=_quotas_answer(organisation.quotas),
        caps=CapsAnswer(memory_mb=organisation.caps.memory_mib, disk_mb=organisation.caps.disk_mib),
        used=_quotas_answer(used),
        created_at=organisation.created_at,
    )


def _quotas_answer(quotas: Quotas) -> QuotasAnswer:
    return QuotasAnswer(
        sandboxes=quotas.sandboxes,
        vcpu=quotas.vcpu,
        memory_mb=quotas.memory_mib,
        disk_mb=quotas.disk_mib,
        creates_per_second=quotas.creates_per_s,
    )


def _key_body(key: ApiKey) -> KeyBody:
    return KeyBody(
        id=key.id,
        prefix=key.prefix,
        name=key.name,
        scopes=sorted(scope.value for scope in key.scopes),
        created_at=key.created_at,
    )


_ORG = "/admin/orgs/{org}"

ENDPOINTS = (
    Endpoint(
        "GET",
        ("/admin/orgs",),
        list_organisations,
        "List organisations, newest first",
        Access.ADMIN,
        {200: list[OrganisationBody]},
        errors=("invalid_argument",),
        parameters=LIST_PARAMETERS,
    ),
    Endpoint(
        "POST",
        ("/admin/orgs",),
        create_organisation,
        "Create an organisation",
        Access.ADMIN,
        {201: OrganisationBody},
        errors=("invalid_argument", "name_taken"),
        body=CreateOrganisation,
        changes=True,
        fixes=_ids,
    ),
    Endpoint(
        "GET",
        (_ORG,),
        get_organisation,
        "Get an organisation with what it uses",
        Access.ADMIN,
        {200: OrganisationBody},
        errors=("not_found",),
    ),
    Endpoint(
        "PATCH",
        (_ORG,),
        change_organisation,
        "Change name, quotas or caps",
        Access.ADMIN,
        {200: OrganisationBody},
        errors=("not_found", "invalid_argument", "name_taken"),
        body=ChangeOrganisation,
    ),
    Endpoint(
        "GET",
        (f"{_ORG}/keys",),
        list_keys,
        "List an organisation's keys",
        Access.ADMIN,
        {200: list[KeyBody]},
        errors=("not_found", "invalid_argument"),
        parameters=LIST_PARAMETERS,
    ),
    Endpoint(
        "POST",
        (f"{_ORG}/keys",),
        create_key,
        "Create a key; it is shown once",
        Access.ADMIN,
        {201: NewKeyBody},
        errors=("not_found", "invalid_argument"),
        body=CreateKey,
        changes=True,
    ),
    Endpoint(
        "DELETE",
        (f"{_ORG}/keys/{{key}}",),
        revoke_key,
        "Revoke a key",
        Access.ADMIN,
        {204: None},
        errors=("not_found",),
    ),
)
