"""Files of an identity: held open until somebody uses the guest, by name from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandfleet.agent import host_keys, identity_files
from sandfleet.agent.operations.identity import is_host_name


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """Leave no descriptor behind."""
    yield
    identity_files.let_go()


def test_what_is_held_is_overwritten_whole_as_often_as_asked(tmp_path: Path) -> None:
    name = tmp_path / "hostname"
    identity_files.hold(str(name))
    for text in ("a long name\n", "short\n", "a longer name than before\n"):
        identity_files.overwrite(str(name), text)
        assert name.read_text() == text


def test_once_let_go_the_name_counts_and_not_what_was_there(tmp_path: Path) -> None:
    name = tmp_path / "hosts"
    identity_files.hold(str(name))
    identity_files.overwrite(str(name), "of the guest\n")
    identity_files.let_go()
    (tmp_path / "mine").write_text("of the user\n")
    (tmp_path / "mine").replace(name)
    identity_files.overwrite(str(name), "renewed\n")
    assert name.read_text() == "renewed\n"


@pytest.mark.parametrize("name", ["a", "sb-0", "A1", "a" * 63, "0-a--b"])
def test_a_host_name_has_letters_digits_and_hyphens_between_them(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize("name", ["", "-", "-a", "a-", "a" * 64, "a.b", "a b", "ä", "a\n", "٣"])
def test_other_host_names_are_refused(name: str) -> None:
    assert not is_host_name(name)


def test_a_server_for_keys_is_looked_for_once_while_nobody_changes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_keys, "SERVER", str(tmp_path / "sshd"))
    monkeypatch.setattr(host_keys, "_server", [])
    assert host_keys.keygen_command(is_unchanged=True) is None
    (tmp_path / "sshd").touch()
    assert host_keys.keygen_command(is_unchanged=True) is None
    assert host_keys.keygen_command(is_unchanged=False) is not None
    assert host_keys.keygen_command(is_unchanged=True) is not None
