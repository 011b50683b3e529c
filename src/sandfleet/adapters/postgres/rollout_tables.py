"""The tables of roll-outs, as the queries see them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from sandfleet.adapters.postgres.tables import TIME, metadata

worker_versions = Table(
    "worker_versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("registered_at", TIME, nullable=False),
    Column("registered_by", Text, nullable=False),
    Column("tested_at", TIME),
    Column("refused_at", TIME),
    Column("said", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("version", Text, ForeignKey("worker_versions.name"), nullable=False),
    Column("stage", Text, nullable=False),
    Column("value", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("surge", JSONB, nullable=False),
    Column("said", Text, nullable=False),
    Column("steps", JSONB, nullable=False),
    Index("rollouts_tested", "version", postgresql_where=text("stage = 'boot_test'")),
)

worker_proofs = Table(
    "worker_proofs",
    metadata,
    Column("worker_id", Text, ForeignKey("workers.id"), primary_key=True),
    Column("version", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("sandbox_id", Text),
    Column("begun_at", TIME),
    Column("proven_at", TIME),
    Column("said", Text, nullable=False),
)
