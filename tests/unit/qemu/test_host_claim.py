"""Two workers of a host never share a data directory, an address or a user."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.unit.qemu.builders import a_manifest

from sandfleet.adapters.qemu.host_claim import HostClaim, claimed, claims_in_force
from sandfleet.adapters.qemu.manifest import write_manifest
from sandfleet.adapters.qemu.process import identify
from sandfleet.model.errors import HypervisorFailed


def _claim(data_dir: Path, network: str = "10.210.0.0/16", uid_first: int = 200_000) -> HostClaim:
    return HostClaim(data_dir=str(data_dir), network_range=network, uid_first=uid_first, uid_count=1000)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (_claim(Path("/b"), uid_first=300_000), "network_range 10.210.0.0/16 overlaps 10.210.0.0/16 of"),
        (_claim(Path("/b"), "10.210.9.0/24", 300_000), "network_range 10.210.9.0/24 overlaps"),
        (_claim(Path("/b"), "10.211.0.0/16", 200_999), "uids 200999 to 201998 overlap 200000 to 200999"),
        (_claim(Path("/b"), "10.211.0.0/16", 199_001), "uids 199001 to 200000 overlap"),
        (_claim(Path("/a")), "another worker runs in /a"),
    ],
)
def test_what_a_running_worker_has_is_refused_to_another(tmp_path: Path, other: HostClaim, said: str) -> None:
    with claimed(_claim(Path("/a")), claims_dir=tmp_path):
        with pytest.raises(HypervisorFailed, match=said), claimed(other, claims_dir=tmp_path):
            pytest.fail("entered")
        beside = _claim(Path("/c"), "10.211.0.0/16", 201_000)
        with claimed(beside, claims_dir=tmp_path):
            assert len(claims_in_force(tmp_path)) == 2
    with claimed(other, claims_dir=tmp_path):
        assert claims_in_force(tmp_path) == [other]


def test_what_an_ended_worker_left_running_keeps_its_claim(tmp_path: Path) -> None:
    data_dir, claims_dir = tmp_path / "data", tmp_path / "claims"
    own = _claim(data_dir)
    with claimed(own, claims_dir=claims_dir):
        pass
    assert claims_in_force(claims_dir) == []
    machine = data_dir / "machines" / "abcd12345678"
    machine.mkdir(parents=True)
    manifest = a_manifest(machine.name, uid=200_000, process=identify(os.getpid()))
    write_manifest(machine, manifest, durable=False)
    assert claims_in_force(claims_dir) == [own]
    with (
        pytest.raises(HypervisorFailed, match="overlaps"),
        claimed(_claim(tmp_path / "other"), claims_dir=claims_dir),
    ):
        pytest.fail("entered")
    with claimed(own, claims_dir=claims_dir):  # its own next process
        pass
    write_manifest(machine, msgspec.structs.replace(manifest, process=None), durable=False)
    assert claims_in_force(claims_dir) == []
