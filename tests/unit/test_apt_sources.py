"""Which Debian mirror a machine's apt sources name: all the forms in which machines write them."""

from __future__ import annotations

import pytest

from sandfleet.images.apt_sources import (
    PUBLIC_MAIN,
    PUBLIC_SECURITY,
    Mirrors,
    debian_codename,
    debian_mirrors,
    mirror_list_paths,
    parse_sources,
    without_credentials,
)


def mirrors_of(text: str, *, path: str = "/etc/apt/sources.list", codename: str = "bookworm") -> Mirrors:
    return debian_mirrors(parse_sources({path: text}), codename=codename)


def test_one_line_sources_name_both_mirrors() -> None:
    text = """
    # deb http://commented.example/debian bookworm main
    deb-src http://sources.example/debian bookworm main
    deb http://near.example/debian/ bookworm main contrib # the near one
    deb http://near.example/debian-security bookworm-security main
    """
    assert mirrors_of(text) == Mirrors("http://near.example/debian", "http://near.example/debian-security")


def test_deb822_sources_name_both_mirrors() -> None:
    text = (
        "Types: deb\n# a comment inside\nURIs: https://near.example/debian\n"
        "Suites: bookworm\n bookworm-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "Types: deb deb-src\nURIs: https://near.example/debian-security\n"
        "Suites: bookworm-security\nComponents: main\n"
    )
    expected = Mirrors("https://near.example/debian", "https://near.example/debian-security")
    assert mirrors_of(text, path="/etc/apt/sources.list.d/debian.sources") == expected


@pytest.mark.parametrize(
    "line",
    [
        "deb https://packages.example/debian bookworm stable",
        "deb https://packages.example/apt example-bookworm main",
        "deb [signed-by=/etc/apt/keyrings/example.gpg] https://packages.example/debian bookworm main",
        "deb cdrom:[Debian GNU/Linux 12]/ bookworm main",
        "deb file:/srv/debian bookworm main",
    ],
)
def test_third_parties_and_local_media_are_passed_over(line: str) -> None:
    assert mirrors_of(line) == Mirrors(PUBLIC_MAIN, PUBLIC_SECURITY)
    with_own = f"{line}\ndeb http://near.example/debian bookworm main"
    assert mirrors_of(with_own).main == "http://near.example/debian"


def test_key_of_a_third_party_in_deb822_excludes_it() -> None:
    text = (
        "Types: deb\nURIs: https://packages.example/debian\nSuites: bookworm\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )
    assert mirrors_of(text, path="x.sources") == Mirrors()


def test_disabled_stanza_is_passed_over() -> None:
    text = "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
    assert mirrors_of(text, path="x.sources") == Mirrors()


def test_the_machines_own_release_goes_before_an_alias() -> None:
    text = "deb http://alias.example/debian stable main\ndeb http://own.example/debian bookworm main"
    assert mirrors_of(text).main == "http://own.example/debian"
    assert mirrors_of("deb http://alias.example/debian stable main").main == "http://alias.example/debian"


def test_a_path_named_debian_goes_before_another() -> None:
    text = "deb http://a.example/12/prod bookworm main\ndeb http://b.example/debian bookworm main"
    assert mirrors_of(text).main == "http://b.example/debian"


def test_an_ubuntu_machine_uses_the_public_mirrors() -> None:
    codename = debian_codename('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=questing\n')
    assert codename is None
    sources = parse_sources({"x.list": "deb http://archive.example/ubuntu questing main"})
    assert debian_mirrors(sources, codename=codename) == Mirrors()


def test_a_debian_machine_has_its_codename() -> None:
    assert debian_codename("ID=debian\nVERSION_CODENAME=bookworm\n") == "bookworm"
    assert debian_codename('ID="debian"\n') == "stable"


def test_mirror_files_are_followed() -> None:
    sources = parse_sources({"x.list": "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main"})
    assert mirror_list_paths(sources) == ["/etc/apt/mirrors/debian.list"]
    lists = {"/etc/apt/mirrors/debian.list": "https://listed.example/debian\thost:x\n"}
    assert (
        debian_mirrors(sources, codename="bookworm", mirror_lists=lists).main
        == "https://listed.example/debian"
    )
    assert debian_mirrors(sources, codename="bookworm") == Mirrors()


def test_credentials_stay_out_of_guests() -> None:
    assert without_credentials("https://user:secret@m.example:8443/debian") == "https://m.example:8443/debian"
