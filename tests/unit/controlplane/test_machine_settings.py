"""Pools and the policy of capacity come out of the settings; what cannot work stops the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sandfleet.adapters.machines.azure import AzureMachinePool
from sandfleet.adapters.machines.ec2 import Ec2MachinePool
from sandfleet.adapters.machines.local import LocalMachinePool
from sandfleet.adapters.machines.static import StaticMachinePool
from sandfleet.controlplane.machine_pools import capacity_policy, open_pools
from sandfleet.controlplane.settings import ControlPlaneSettings, load_settings
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.testing.clock import JumpingClock

BASE = f"""
postgres_url = "postgresql://db/x"
redis_url = "redis://localhost"
master_secret = "{"5a" * 32}"
bootstrap_key = "bootstrap-key-0123456789"
join_token = "join-token-0123456789"
region = "here"
placement_memory_ratio_max = 1.5
"""
LOCAL = """
[[pools]]
kind = "local"
directory = "/var/lib/fleet/machines"
machines_max = 3
memory_max_mib = 4096
[[pools.sizes]]
name = "worker"
memory_mib = 1024
cpu_count = 8
disk_mib = 40960
"""
BOUGHT = 'memory_mib = 65536, cpu_count = 16, disk_mib = 800000, instance_type = "m5.4xlarge"'
EC2 = f"""
[[pools]]
kind = "ec2"
fleet = "first"
aws_region = "eu-west-1"
launch_template = "lt-1"
sizes = [
  {{name = "large", {BOUGHT}, price_per_hour = 0.8}},
  {{name = "spot", {BOUGHT}, is_spot = true, region = "there"}},
]
"""
AZURE = f"""
[[pools]]
kind = "azure"
fleet = "first"
subscription_id = "0000"
resource_group = "workers"
location = "westeurope"
subnet_id = "/subscriptions/0000/subnet"
gallery = "images"
gallery_resource_group = "shared"
image = "worker"
ssh_public_key = "ssh-ed25519 AAAA"
sizes = [
  {{name = "large", {BOUGHT.partition(", instance")[0]}, vm_size = "Standard_D16s_v5", zone = "2"}},
  {{name = "spot", {BOUGHT.partition(", instance")[0]}, vm_size = "Standard_D16s_v5", is_spot = true}},
]
"""
STATIC = '[[pools]]\nkind = "static"\n'


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")


def settings(tmp_path: Path, text: str) -> ControlPlaneSettings:
    path = tmp_path / "server.toml"
    path.write_text(BASE + text)
    return load_settings(path)


def test_a_server_that_is_told_nothing_has_no_pools_and_wants_no_workers(tmp_path: Path) -> None:
    given = settings(tmp_path, "")
    assert dict(open_pools(given, JumpingClock())) == {}
    assert capacity_policy(given, {}) is None


def test_pools_are_opened_by_kind_and_preferred_in_their_order(tmp_path: Path) -> None:
    given = settings(tmp_path, STATIC + EC2 + LOCAL + AZURE + "[capacity]\nworkers_max = 7\n")
    pools = open_pools(given, JumpingClock())
    assert [(name, type(pool)) for name, pool in pools.items()] == [
        ("static", StaticMachinePool),
        ("ec2", Ec2MachinePool),
        ("local", LocalMachinePool),
        ("azure", AzureMachinePool),
    ]
    policy = capacity_policy(given, pools)
    assert policy is not None
    found = {size.key: size for size in policy.sizes}
    assert list(found) == ["ec2/large", "ec2/spot", "local/worker", "azure/large", "azure/spot"]
    assert [found[key].region for key in found] == ["here", "there", "here", "here", "here"]
    assert found["ec2/large"].price_per_hour == 0.8
    assert found["local/worker"].resources.memory_mib == 1024
    assert policy.placement == given.placement_policy
    assert policy.workers_max == 7


def test_what_is_left_out_of_the_policy_is_as_the_planner_has_it(tmp_path: Path) -> None:
    given = settings(tmp_path, LOCAL + "[capacity]\n")
    policy = capacity_policy(given, open_pools(given, JumpingClock()))
    assert policy is not None
    assert policy == CapacityPolicy(sizes=policy.sizes, placement=policy.placement)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[capacity]\n", "no pool with sizes"),
        (STATIC + "[capacity]\n", "no pool with sizes"),
        (LOCAL + LOCAL, "local is there more than once"),
        (LOCAL + "[[pools.sizes]]" + LOCAL.partition("[[pools.sizes]]")[2], "same name"),
        (LOCAL + "[capacity]\nworkers_min = 3\nworkers_max = 2\n", "workers_min is 3, workers_max 2"),
        (LOCAL + "[capacity]\nmachines_max = {ec2 = 3}\n", "there is no ec2"),
        (LOCAL + "[capacity]\nworkers_most = 3\n", "workers_most"),
        (LOCAL.replace('"local"', '"cloud"'), "cloud"),
        (LOCAL.partition("[[pools.sizes]]")[0], "sizes"),
        (AZURE.replace('"first"', '"First"'), "fleet"),
        (AZURE.replace("vm_size", "instance_type"), "vm_size"),
        (LOCAL.replace('"worker"', '"a/b"'), "name"),
    ],
)
def test_machines_that_cannot_be_had_stop_the_start(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(tmp_path, text)


def test_a_limit_may_be_of_a_pool_or_of_a_size(tmp_path: Path) -> None:
    given = settings(tmp_path, LOCAL + '[capacity]\nmachines_max = {local = 3, "local/worker" = 2}\n')
    policy = capacity_policy(given, open_pools(given, JumpingClock()))
    assert policy is not None
    assert policy.machines_max == {"local": 3, "local/worker": 2}
