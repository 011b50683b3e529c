"""Tables of other programs that would cut sandboxes off, on the kernel's own nftables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

EXAMINE = """
import json
from sandfleet.local.doctor import _firewall
print(json.dumps(_firewall().as_json()))
"""
ENGINE = (
    "table ip filter { chain DOCKER-USER { return; }; "
    "chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }"
)
STRICT = "table inet mine { chain passing { type filter hook forward priority 0; policy drop; }; }"
HARMLESS = (
    "table inet a { chain incoming { type filter hook input priority 0; policy drop; }; }\n"
    "table ip6 b { chain passing { type filter hook forward priority 0; policy drop; }; }\n"
    "table ip c { chain passing { type filter hook forward priority 0; policy accept; }; }\n"
    "table inet sandfleet_abcd { chain forward { type filter hook forward priority -5; policy drop; }; }"
)


def _found(rules: str, *then: str) -> dict[str, str | None]:
    """Return what `doctor` says in a network namespace of its own that has these rules."""
    script = "; ".join(['printf %s "$0" | nft -f -', *then, f'exec {sys.executable} -c "$1"'])
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", script, rules, EXAMINE],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("rules", "chain"), [(ENGINE, "ip filter DOCKER-USER"), (STRICT, "inet mine passing")]
)
def test_a_table_that_drops_is_named_and_its_remedy_works(rules: str, chain: str) -> None:
    found = _found(rules)
    assert (found["subject"], found["verdict"]) == ("firewall", "warn")
    remedy = found["advice"]
    assert remedy is not None
    assert f"nft insert rule {chain} " in remedy
    assert _found(rules, remedy)["verdict"] == "ok"


def test_tables_that_do_not_matter_are_not_named() -> None:
    assert _found(HARMLESS)["verdict"] == "ok"
