"""The wanted version as a secret of a Key Vault: over TLS, with its challenge and a managed identity."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.keyvault.secrets._shared import http_challenge_cache
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.integration import json_server
from tests.integration.arm_server import error_of
from tests.integration.json_server import Reply

from sandfleet.adapters.machines.version_secret import VersionSecret
from sandfleet.controlplane.machine_pools import version_source
from sandfleet.controlplane.rollout_settings import RolloutSettings
from sandfleet.model.errors import PoolUnreachable
from sandfleet.testing.builders import NOON
from sandfleet.testing.clock import JumpingClock

NAME, TOKEN, IDENTITY = "worker-version", "a-vault-token", "00000000-0000-0000-0000-00000000000a"
TENANT = "https://login.microsoftonline.com/00000000-0000-0000-0000-00000000000b"


@dataclass
class Vault:
    """One vault, and the service of the machine that gives tokens for it."""

    url: str = ""
    values: list[str] = field(default_factory=list)
    is_disabled: bool = False
    answers: deque[Reply] = field(default_factory=deque)
    """Answers that come instead, to who has a token."""
    resource: str = ""
    """Whom the challenge wants a token for."""
    calls: list[str] = field(default_factory=list)
    asked_for: list[dict[str, str]] = field(default_factory=list)
    """What tokens were asked for."""

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Reply:
        """Answer one request to the vault."""
        self.calls.append(f"{method} {urlsplit(target).path}")
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            said = f'Bearer authorization="{TENANT}", resource="{self.resource}"'
            status, more, told = error_of(401, "Unauthorized", "AKV10000: Request is missing a Bearer token.")
            return status, more | {"WWW-Authenticate": said}, told
        if self.answers:
            return self.answers.popleft()
        if urlsplit(target).path.rstrip("/") != f"/secrets/{NAME}" or not self.values:
            return error_of(404, "SecretNotFound", "A secret with (name/id) was not found in this key vault.")
        if self.is_disabled:
            status, more, told = error_of(
                403, "Forbidden", "Operation get is not allowed on a disabled secret."
            )
            told["error"]["innererror"] = {"code": "SecretDisabled"}
            return status, more, told
        made_at = 1767225600
        attributes = {"enabled": True, "created": made_at, "updated": made_at, "recoveryLevel": "Purgeable"}
        secret_id = f"{self.url}/secrets/{NAME}/{len(self.values):032}"
        return 200, {}, {"value": self.values[-1], "id": secret_id, "attributes": attributes, "tags": {}}

    def give_token(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Reply:
        """Answer as the machine's metadata service."""
        asked = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        self.asked_for.append(asked)
        if asked.get("client_id") not in (None, IDENTITY) or headers.get("Metadata") != "true":
            return 400, {}, {"error": "invalid_request", "error_description": "Identity not found"}
        token = {"access_token": TOKEN, "expires_in": "86400", "resource": asked["resource"]}
        return 200, {}, token | {"token_type": "Bearer"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path = tmp_path_factory.mktemp("vault") / "vault.pem"
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding, *plain) + made.public_bytes(encoding))
    return path


@pytest.fixture
def vault(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    vault = Vault()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with (
        json_server.serving(vault.answer, tls=tls) as vault.url,
        json_server.serving(vault.give_token) as url,
    ):
        # A vault's host is its own name and that of all vaults: here the name is 127.
        vault.resource = vault.url.replace("127.0.0.1", "0.0.1")
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        yield vault
    http_challenge_cache.clear()


def opened(vault: Vault, clock: JumpingClock | None = None, **settings: Any) -> VersionSecret:
    """Return the source that the settings name."""
    place = vault.url.removeprefix("https://")
    named = RolloutSettings(source=f"keyvault://{place}/{NAME}", **settings)
    source = version_source(named, clock or JumpingClock(now=NOON))
    assert isinstance(source, VersionSecret)
    return source


async def test_the_newest_value_is_read_with_a_token_that_the_challenge_asks_for(vault: Vault) -> None:
    source = opened(vault)
    assert await source.read() is None
    for value in ("2", "3.1"):
        vault.values.append(f" {value}\n")
        assert await source.read() == value
    # One challenge and one token for all: the first call goes without.
    assert len(vault.calls) == 1 + 3
    assert [one["resource"] for one in vault.asked_for] == [vault.resource]
    assert "client_id" not in vault.asked_for[0]


async def test_a_secret_that_was_disabled_or_is_empty_names_no_version(vault: Vault) -> None:
    source = opened(vault)
    vault.values.append("2")
    vault.is_disabled = True
    assert await source.read() is None
    vault.is_disabled = False
    assert await source.read() == "2"
    vault.values.append(" ")
    assert await source.read() is None


async def test_who_may_not_read_it_learns_nothing_and_says_why(vault: Vault) -> None:
    source = opened(vault)
    vault.values.append("2")
    vault.answers.append(error_of(403, "Forbidden", "The user does not have secrets get permission."))
    with pytest.raises(PoolUnreachable, match="secrets get permission"):
        await source.read()
    # What is not there may be the vault, or the address of something else.
    vault.answers.append(error_of(404, "NotFound", "nothing here"))
    with pytest.raises(PoolUnreachable, match="nothing here"):
        await source.read()
    assert await source.read() == "2"


async def test_a_vault_that_wants_peace_is_left_alone_for_so_long(vault: Vault) -> None:
    clock = JumpingClock(now=NOON)
    source = opened(vault, clock)
    vault.values.append("2")
    vault.answers.append(error_of(429, "TooManyRequests", "slow down", Retry_After="40"))
    with pytest.raises(PoolUnreachable, match="slow down"):
        await source.read()
    asked = len(vault.calls)
    await clock.advance(39)
    with pytest.raises(PoolUnreachable, match="1 s of patience"):
        await source.read()
    assert len(vault.calls) == asked, "it is not asked once more while it wants peace"
    await clock.advance(1)
    assert await source.read() == "2"


async def test_the_identity_that_is_named_asks_and_another_is_refused(vault: Vault) -> None:
    vault.values.append("2")
    assert await opened(vault, source_client_id=IDENTITY).read() == "2"
    assert vault.asked_for[0]["client_id"] == IDENTITY
    http_challenge_cache.clear()
    with pytest.raises(PoolUnreachable, match="Identity not found"):
        await opened(vault, source_client_id="another").read()


async def test_no_token_is_shown_to_a_host_that_wants_one_for_somebody_else(vault: Vault) -> None:
    vault.resource = "https://vault.azure.net"
    with pytest.raises(PoolUnreachable, match="does not match"):
        await opened(vault).read()
    assert vault.asked_for == []


async def test_no_answer_is_no_version() -> None:
    clock = JumpingClock(now=NOON)
    with pytest.raises(PoolUnreachable, match="cannot be read"):
        await VersionSecret("https://127.0.0.1:1", NAME, clock=clock).read()


def test_a_vault_of_the_public_cloud_is_named_alone() -> None:
    named = RolloutSettings(source=f"keyvault://fleet/{NAME}")
    source = version_source(named, JumpingClock(now=NOON))
    assert isinstance(source, VersionSecret)
    assert source.vault_url == "https://fleet.vault.azure.net"
