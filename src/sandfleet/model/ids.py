"""Typed, prefixed, unguessable identifiers.

The pure core mints no randomness: callers pass 128 random bits in.
"""

from __future__ import annotations

from typing import NewType
from uuid import UUID

SandboxId = NewType("SandboxId", str)
WorkerId = NewType("WorkerId", str)
OperationId = NewType("OperationId", str)
OrganisationId = NewType("OrganisationId", str)
KeyId = NewType("KeyId", str)
ExecId = NewType("ExecId", str)
SnapshotId = NewType("SnapshotId", str)
CheckpointId = NewType("CheckpointId", str)

FLEET_ORGANISATION = OrganisationId("00000000-0000-4000-8000-00000000f1ee")
"""Owns the sandboxes that the fleet itself starts, to see whether a worker can."""

ID_BYTES = 16
EXEC_ID_PREFIX = "ex-"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_BODY_LENGTH = 26


def encode_id(random_bytes: bytes) -> str:
    """Return 26 characters of `[a-z2-7]` that carry the given 16 bytes."""
    if len(random_bytes) != ID_BYTES:
        raise ValueError(f"an id is made from {ID_BYTES} random bytes, not {len(random_bytes)}")
    number = int.from_bytes(random_bytes, "big")
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(_BODY_LENGTH - 1, -1, -1))


def sandbox_id(random_bytes: bytes) -> SandboxId:
    """Return `sb-` and 26 characters."""
    return SandboxId("sb-" + encode_id(random_bytes))


def worker_id(random_bytes: bytes) -> WorkerId:
    """Return `wk-` and 26 characters."""
    return WorkerId("wk-" + encode_id(random_bytes))


def operation_id(random_bytes: bytes) -> OperationId:
    """Return `op-` and 26 characters."""
    return OperationId("op-" + encode_id(random_bytes))


def exec_id(random_bytes: bytes) -> ExecId:
    """Return `ex-` and 26 characters; it also matches the API's form of a session id."""
    return ExecId(EXEC_ID_PREFIX + encode_id(random_bytes))


def snapshot_id(random_bytes: bytes) -> SnapshotId:
    """Return `sn-` and 26 characters."""
    return SnapshotId("sn-" + encode_id(random_bytes))


def record_uuid(random_bytes: bytes) -> str:
    """Return a version 4 UUID, the form of organisation, key and checkpoint ids."""
    return str(UUID(bytes=random_bytes, version=4))
