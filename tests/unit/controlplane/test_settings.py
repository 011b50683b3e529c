"""One schema: unknown and missing names stop the start, the environment overrides, secrets stay hidden."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sandfleet.controlplane.settings import load_settings

FILE = """
postgres_url = "postgresql://me:hunter2@db/x"
redis_url = "redis://localhost"
master_secret = "{secret}"
bootstrap_key = "bootstrap-key-0123456789"
join_token = "join-token-0123456789"
"""
SECRET = "5a" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(FILE.format(secret=SECRET))
    return path


def test_the_defaults_of_the_contract(file: Path) -> None:
    settings = load_settings(file)
    assert (settings.sandbox_wait_s, settings.answer_by_s, settings.creation_queue_s) == (90, 25, 30)
    assert (settings.exec_pad_after_s, settings.exec_pad_every_s) == (10, 10)
    assert settings.file_bytes_max == 2 * 1024**3
    assert settings.size_limits.memory_block_mib == 128


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("memory_default_mb = 1000", "memory_default_mb is 1000, no multiple .*: 896 and 1024 are"),
        ("memory_max_mb = 65000", "memory_max_mb is 65000"),
        ("memory_base_mb = 500", "memory_base_mb is 500"),
        ("memory_block_mb = 100", "blocks of 128"),
        ("memory_default_mb = 256", "does not hold"),
    ],
)
def test_memory_that_no_guest_can_be_given_stops_the_start(file: Path, line: str, told: str) -> None:
    file.write_text(f"{file.read_text()}\n{line}\n")
    with pytest.raises(ValidationError, match=told):
        load_settings(file)


def test_an_unknown_name_stops_the_start(file: Path) -> None:
    file.write_text(file.read_text() + "\nlisten_prot = 80\n")
    with pytest.raises(ValidationError, match="listen_prot"):
        load_settings(file)


def test_a_missing_name_stops_the_start(file: Path) -> None:
    file.write_text(file.read_text().replace("join_token", "#"))
    with pytest.raises(ValidationError, match="join_token"):
        load_settings(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [(SECRET, "short"), ("bootstrap-key-0123456789", "with space and more"), ("join-token-0123456789", "x")],
)
def test_secrets_have_their_form(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValidationError):
        load_settings(file)


def test_the_environment_overrides_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDFLEET_LISTEN_PORT", "9999")
    assert load_settings(file).listen_port == 9999


def test_the_printed_configuration_has_no_secret(file: Path) -> None:
    settings = load_settings(file)
    for secret in ("hunter2", SECRET, "bootstrap-key-0123456789", "join-token-0123456789"):
        assert secret not in str(settings.redacted())
        assert secret not in repr(settings)


@pytest.mark.parametrize("url", ["https://x.example", "https://x.example/", "https://x.example/api"])
def test_the_origin_has_no_slash_and_no_api(file: Path, url: str) -> None:
    file.write_text(file.read_text() + f'\npublic_url = "{url}"\n')
    assert load_settings(file).origin == "https://x.example"
