"""A state goes on with other runs: summaries have a kind, and items know if they were put.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Gives `items` the column `put`, and `revisions` the column `kind`, as a part of its key."""
    flag = sa.Column("put", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("items", flag)
    op.execute("UPDATE items SET put = (version > 0)")
    # SQLite cannot change a key: the rows move to a table of that form
    moved = op.create_table(
        "revisions_of_kinds",
        sa.Column("user", TEXT, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True, server_default=""),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("covers", sa.Integer, nullable=False),
        sa.Column("first_event", sa.Text, nullable=False),
        sa.Column("last_event", sa.Text, nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    names = ", ".join(f'"{one.name}"' for one in moved.columns if one.name != "kind")
    op.execute(f"INSERT INTO revisions_of_kinds ({names}) SELECT {names} FROM revisions")  # noqa: S608
    op.drop_table("revisions")
    op.rename_table("revisions_of_kinds", "revisions")
