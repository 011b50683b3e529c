"""Why a worker is off the fleet: it was empty, or who said that its host is no more.

Revision ID: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column; of workers that went before nothing is known."""
    op.execute("ALTER TABLE workers ADD COLUMN gone_because TEXT NOT NULL DEFAULT ''")


def downgrade() -> None:
    """Take it away."""
    op.execute("ALTER TABLE workers DROP COLUMN gone_because")
