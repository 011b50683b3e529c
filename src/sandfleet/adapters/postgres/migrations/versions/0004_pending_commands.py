"""Commands that were accepted before their sandbox was ready.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    CREATE TABLE pending_commands (
        exec_id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        body_sealed BYTEA NOT NULL,
        holder TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        deadline_at TIMESTAMP WITH TIME ZONE NOT NULL,
        lease_deadline_at TIMESTAMP WITH TIME ZONE NOT NULL,
        failure_code TEXT,
        failure_message TEXT,
        PRIMARY KEY (exec_id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX pending_commands_lease ON pending_commands (lease_deadline_at)",
)


def upgrade() -> None:
    """Create the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take it away; commands that wait are lost."""
    op.execute("DROP TABLE pending_commands")
