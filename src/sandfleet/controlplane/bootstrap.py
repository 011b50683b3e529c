"""What a fleet has before anybody asked: the default organisation and the bootstrap key."""

from __future__ import annotations

import hmac
import secrets

from sandfleet.controlplane.http.keys import key_digest, key_prefix
from sandfleet.model.errors import Conflict, SandfleetError
from sandfleet.model.ids import KeyId, OrganisationId, record_uuid
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas, Scope
from sandfleet.ports.clock import Clock
from sandfleet.ports.stores import OrganisationStore

DEFAULT_ORGANISATION = "default"
BOOTSTRAP_KEY_NAME = "bootstrap"


async def ensure_default_organisation(store: OrganisationStore, *, clock: Clock) -> Organisation:
    """Return the default organisation; of replicas that start at once, one creates it."""
    found = await _default(store)
    if found is not None:
        return found
    organisation = Organisation(
        id=OrganisationId(record_uuid(secrets.token_bytes(16))),
        name=DEFAULT_ORGANISATION,
        quotas=Quotas(),
        caps=Caps(),
        created_at=clock.now(),
    )
    try:
        await store.create(organisation)
    except Conflict:
        found = await _default(store)
        if found is None:
            raise
        return found
    return organisation


async def ensure_bootstrap_key(store: OrganisationStore, key: str, *, clock: Clock) -> None:
    """Have exactly the key of the settings: a changed setting revokes the former one."""
    organisation = await ensure_default_organisation(store, clock=clock)
    digest = key_digest(key)
    present = None
    for candidate, stored in await store.find_keys(key_prefix(key)):
        if hmac.compare_digest(stored, digest):
            present = candidate
    if present is not None and present.organisation_id != organisation.id:
        raise SandfleetError("the bootstrap key is in use as a key of another organisation")
    for former in await store.list_keys(organisation.id):
        if former.name == BOOTSTRAP_KEY_NAME and (present is None or former.id != present.id):
            await store.revoke_key(organisation.id, former.id)
    if present is None:
        await store.add_key(_key(organisation.id, key, clock=clock), digest=digest)


def _key(organisation_id: OrganisationId, key: str, *, clock: Clock) -> ApiKey:
    return ApiKey(
        id=KeyId(record_uuid(secrets.token_bytes(16))),
        organisation_id=organisation_id,
        name=BOOTSTRAP_KEY_NAME,
        prefix=key_prefix(key),
        scopes=frozenset({Scope.ORG, Scope.ADMIN}),
        created_at=clock.now(),
    )


async def _default(store: OrganisationStore) -> Organisation | None:
    organisations = await store.list()
    return next((one for one in organisations if one.name == DEFAULT_ORGANISATION), None)
