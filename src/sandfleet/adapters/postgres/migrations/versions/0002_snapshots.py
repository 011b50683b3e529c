"""Snapshots and checkpoints; what a sandbox was saved to or started from.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
    CREATE TABLE snapshots (
        id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        state TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        worker_id TEXT,
        manifest JSONB NOT NULL,
        size_bytes BIGINT NOT NULL,
        pause_ms DOUBLE PRECISION NOT NULL,
        error_message TEXT,
        PRIMARY KEY (id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    "CREATE INDEX snapshots_sandbox ON snapshots (sandbox_id)",
    """
    CREATE TABLE checkpoints (
        id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        snapshot_id TEXT,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        template TEXT NOT NULL,
        region TEXT NOT NULL,
        memory_mib BIGINT NOT NULL,
        cpu_count INTEGER NOT NULL,
        disk_mib BIGINT NOT NULL,
        timeout_s BIGINT NOT NULL,
        port INTEGER NOT NULL,
        network_enabled BOOLEAN NOT NULL,
        envs_sealed BYTEA,
        metadata JSONB NOT NULL,
        template_version TEXT,
        size_bytes BIGINT NOT NULL,
        ready_at TIMESTAMP WITH TIME ZONE,
        failed_at TIMESTAMP WITH TIME ZONE,
        error_message TEXT,
        PRIMARY KEY (id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id),
        FOREIGN KEY(snapshot_id) REFERENCES snapshots (id) ON DELETE SET NULL
    )
    """,
    "CREATE UNIQUE INDEX checkpoints_name ON checkpoints (sandbox_id, name) WHERE state <> 'failed'",
    "CREATE INDEX checkpoints_list ON checkpoints (organisation_id, sandbox_id, created_at)",
    "CREATE INDEX checkpoints_snapshot ON checkpoints (snapshot_id)",
    "ALTER TABLE sandboxes ADD COLUMN snapshot_id TEXT REFERENCES snapshots (id) ON DELETE SET NULL",
    "ALTER TABLE sandboxes ADD COLUMN from_checkpoint_id TEXT",
    "CREATE INDEX sandboxes_snapshot ON sandboxes (snapshot_id) WHERE snapshot_id IS NOT NULL",
)


def upgrade() -> None:
    """Create the tables and the columns that refer to them."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: saved sandboxes would be lost; restore a backup instead."""
    raise NotImplementedError("snapshots are not thrown away by a migration")
