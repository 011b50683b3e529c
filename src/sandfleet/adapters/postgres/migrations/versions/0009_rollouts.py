"""Roll-outs, the versions that they are of, and what workers have proven.

Revision ID: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

UPGRADE = (
    """
    CREATE TABLE worker_versions (
        name TEXT NOT NULL,
        registered_at TIMESTAMP WITH TIME ZONE NOT NULL,
        registered_by TEXT NOT NULL,
        tested_at TIMESTAMP WITH TIME ZONE,
        refused_at TIMESTAMP WITH TIME ZONE,
        said TEXT NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE rollouts (
        number BIGINT GENERATED ALWAYS AS IDENTITY,
        version TEXT NOT NULL,
        stage TEXT NOT NULL,
        value JSONB NOT NULL,
        actor TEXT NOT NULL,
        revision BIGINT NOT NULL,
        surge JSONB NOT NULL,
        said TEXT NOT NULL,
        steps JSONB NOT NULL,
        PRIMARY KEY (number),
        FOREIGN KEY(version) REFERENCES worker_versions (name)
    )
    """,
    "CREATE INDEX rollouts_tested ON rollouts (version) WHERE stage = 'boot_test'",
    """
    CREATE TABLE worker_proofs (
        worker_id TEXT NOT NULL,
        version TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        sandbox_id TEXT,
        begun_at TIMESTAMP WITH TIME ZONE,
        proven_at TIMESTAMP WITH TIME ZONE,
        said TEXT NOT NULL,
        PRIMARY KEY (worker_id),
        FOREIGN KEY(worker_id) REFERENCES workers (id)
    )
    """,
    "CREATE INDEX operations_ended ON operations (finished_at) WHERE finished_at IS NOT NULL",
    "DELETE FROM planner_states WHERE name = 'rollout'",
)
DOWNGRADE = (
    "DROP INDEX operations_ended",
    "DROP TABLE worker_proofs",
    "DROP TABLE rollouts",
    "DROP TABLE worker_versions",
)


def upgrade() -> None:
    """Create the tables; there was no roll-out before."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Take them away; workers stay as they are."""
    for statement in DOWNGRADE:
        op.execute(statement)
