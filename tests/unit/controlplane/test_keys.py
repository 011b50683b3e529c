"""API keys that a replica has looked up: for how long they are trusted, and how many."""

from __future__ import annotations

import pytest

from sandfleet.controlplane.http.keys import KeyRing, key_digest, key_prefix, mint_key
from sandfleet.model.errors import Forbidden
from sandfleet.model.ids import KeyId, OrganisationId
from sandfleet.model.organisation import ApiKey, Scope
from sandfleet.ports.stores import OrganisationStore
from sandfleet.testing.clock import BEGINNING, JumpingClock
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

ORGANISATION = OrganisationId("00000000-0000-4000-8000-000000000001")
CACHE_S = 3.0


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def store(clock: JumpingClock) -> OrganisationStore:
    return memory_stores(MemoryDatabase(clock.now)).organisations


async def a_key(store: OrganisationStore, name: str) -> str:
    secret = mint_key()
    key = ApiKey(
        id=KeyId(name),
        organisation_id=ORGANISATION,
        name=name,
        prefix=key_prefix(secret),
        scopes=frozenset({Scope.ORG}),
        created_at=BEGINNING,
    )
    await store.add_key(key, digest=key_digest(secret))
    return secret


async def test_a_revoked_key_dies_on_every_replica_within_the_bound(
    store: OrganisationStore, clock: JumpingClock
) -> None:
    here, there = (KeyRing(store, clock=clock, cache_s=CACHE_S) for _ in range(2))
    secret = await a_key(store, "k")
    for ring in (here, there):
        assert (await ring.find(secret)).id == "k"
    await store.revoke_key(ORGANISATION, KeyId("k"))
    here.forget()
    with pytest.raises(Forbidden):
        await here.find(secret)
    await clock.advance(CACHE_S)
    with pytest.raises(Forbidden):
        await there.find(secret)


async def test_use_does_not_prolong_a_keys_trust(store: OrganisationStore, clock: JumpingClock) -> None:
    ring = KeyRing(store, clock=clock, cache_s=CACHE_S)
    secret = await a_key(store, "k")
    await ring.find(secret)
    await store.revoke_key(ORGANISATION, KeyId("k"))
    for _ in range(2):
        await clock.advance(CACHE_S / 3)
        await ring.find(secret)
    await clock.advance(CACHE_S / 3)
    with pytest.raises(Forbidden):
        await ring.find(secret)


async def test_a_wrong_key_is_refused_although_its_beginning_is_known(
    store: OrganisationStore, clock: JumpingClock
) -> None:
    ring = KeyRing(store, clock=clock, cache_s=CACHE_S)
    secret = await a_key(store, "k")
    await ring.find(secret)
    with pytest.raises(Forbidden):
        await ring.find(secret[:-1] + ("a" if secret[-1] != "a" else "b"))


async def test_no_more_keys_are_kept_than_the_bound(
    store: OrganisationStore, clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.http.keys.CACHE_ENTRIES_MAX", 2)
    ring = KeyRing(store, clock=clock, cache_s=CACHE_S)
    for number in range(5):
        await ring.find(await a_key(store, f"k{number}"))
    assert len(ring._known) <= 2
