"""Tokens: what is signed, who accepts it, when it ends."""

from __future__ import annotations

import base64
import json

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from sandfleet.controlplane.tokens import TokenSigner
from sandfleet.model.errors import Unauthorised
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.testing.clock import JumpingClock

ORGANISATION = OrganisationId("org-1")
SANDBOX = SandboxId("sb-1")
WORKER = WorkerId("wk-1")


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def signer(clock: JumpingClock) -> TokenSigner:
    return TokenSigner(b"\x01" * 32, clock=clock, sandbox_ttl_s=60, fleet_ttl_s=100)


def claims_of(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_a_sandbox_token_says_what_the_contract_says(signer: TokenSigner, clock: JumpingClock) -> None:
    issued = int(clock.now().timestamp())
    assert claims_of(signer.sandbox_token(ORGANISATION, SANDBOX)) == {
        "iss": "sandfleet",
        "sub": "org-1",
        "org_id": "org-1",
        "sandbox_id": "sb-1",
        "iat": issued,
        "exp": issued + 60,
    }


async def test_a_sandbox_token_is_accepted_until_it_expires(signer: TokenSigner, clock: JumpingClock) -> None:
    token = signer.sandbox_token(ORGANISATION, SANDBOX)
    await clock.advance(59)
    assert signer.verify_sandbox_token(token).sandbox_id == SANDBOX
    await clock.advance(1)
    with pytest.raises(Unauthorised, match="expired"):
        signer.verify_sandbox_token(token)


def test_a_fleet_token_opens_no_sandbox(signer: TokenSigner) -> None:
    with pytest.raises(Unauthorised):
        signer.verify_sandbox_token(signer.fleet_token(WORKER))


async def test_a_fleet_token_is_made_anew_in_time(signer: TokenSigner, clock: JumpingClock) -> None:
    first = signer.fleet_token(WORKER)
    await clock.advance(49)
    assert signer.fleet_token(WORKER) == first
    await clock.advance(2)
    assert signer.fleet_token(WORKER) != first
    assert claims_of(first)["aud"] == "wk-1"


async def test_a_sandbox_token_that_is_given_out_has_nearly_all_of_its_life(
    signer: TokenSigner, clock: JumpingClock
) -> None:
    first = signer.sandbox_token(ORGANISATION, SANDBOX)
    await clock.advance(2)
    assert signer.sandbox_token(ORGANISATION, SANDBOX) == first
    assert claims_of(signer.fresh_sandbox_token(ORGANISATION, SANDBOX)) != claims_of(first)
    await clock.advance(1)
    later = claims_of(signer.sandbox_token(ORGANISATION, SANDBOX))
    assert later["exp"] == int(clock.now().timestamp()) + 60


def test_a_sandbox_token_is_of_its_own_sandbox_and_organisation(signer: TokenSigner) -> None:
    asked = [(ORGANISATION, "sb-1"), (ORGANISATION, "sb-2"), (OrganisationId("org-2"), "sb-1")] * 2
    tokens = [signer.sandbox_token(organisation, SandboxId(sandbox)) for organisation, sandbox in asked]
    said = [(claims_of(token)["org_id"], claims_of(token)["sandbox_id"]) for token in tokens]
    assert said == asked


def test_no_more_tokens_are_kept_than_the_bound(
    signer: TokenSigner, clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandfleet.controlplane.tokens.TOKENS_KEPT_MAX", 2)
    for number in range(5):
        signer.sandbox_token(ORGANISATION, SandboxId(f"sb-{number}"))
    assert len(signer._sandbox_tokens) <= 2


@pytest.mark.parametrize("token", ["a.b.c", "..", "osb_123", "x.y.", "é.é.é", "e30.e30.e30"])
def test_what_is_no_token_is_refused(signer: TokenSigner, token: str) -> None:
    with pytest.raises(Unauthorised) as refused:
        signer.verify_sandbox_token(token)
    assert refused.value.code == "invalid_token"


def test_a_token_of_another_key_or_algorithm_is_refused(signer: TokenSigner, clock: JumpingClock) -> None:
    other = TokenSigner(b"\x02" * 32, clock=clock, sandbox_ttl_s=60, fleet_ttl_s=100)
    with pytest.raises(Unauthorised):
        signer.verify_sandbox_token(other.sandbox_token(ORGANISATION, SANDBOX))
    shared = OctKey.import_key(b"k" * 32)
    claims = claims_of(signer.sandbox_token(ORGANISATION, SANDBOX))
    forged = jwt.encode({"alg": "HS256"}, claims, shared, algorithms=["HS256"])
    with pytest.raises(Unauthorised):
        signer.verify_sandbox_token(forged)


def test_only_the_public_half_is_published(signer: TokenSigner) -> None:
    key = signer.public_keys["keys"][0]
    assert key["kty"] == "OKP"
    assert "d" not in key
