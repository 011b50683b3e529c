"""The tags that a pool's machines and their parts carry, by the same names wherever a pool has tags."""

from __future__ import annotations

FLEET_TAG, LAUNCH_TAG = "sandfleet:fleet", "sandfleet:launch"
SIZE_TAG, VERSION_TAG = "sandfleet:size", "sandfleet:version"
