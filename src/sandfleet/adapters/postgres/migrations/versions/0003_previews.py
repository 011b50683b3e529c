"""Preview records; tags, CPU limit and preview gate of a sandbox.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    CREATE TABLE previews (
        id TEXT NOT NULL,
        organisation_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        port INTEGER NOT NULL,
        custom_hostname TEXT,
        auth_config JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(organisation_id) REFERENCES organisations (id),
        FOREIGN KEY(sandbox_id) REFERENCES sandboxes (id) ON DELETE CASCADE
    )
    """,
    "CREATE UNIQUE INDEX previews_port ON previews (sandbox_id, port)",
    "ALTER TABLE sandboxes ADD COLUMN cpu_percent INTEGER",
    "ALTER TABLE sandboxes ADD COLUMN tags JSONB NOT NULL DEFAULT '{}'::jsonb",
    "ALTER TABLE sandboxes ADD COLUMN tags_changed_at TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE sandboxes ADD COLUMN preview_digest BYTEA",
)


def upgrade() -> None:
    """Create the table and the columns."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Take them away again; tags, limits and gates are lost."""
    op.execute("DROP TABLE previews")
    for column in ("cpu_percent", "tags", "tags_changed_at", "preview_digest"):
        op.execute(f"ALTER TABLE sandboxes DROP COLUMN {column}")
