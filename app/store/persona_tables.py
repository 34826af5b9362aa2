"""The tables of personas: what speaks of users' facets, and what facets are before any evidence."""

from sqlalchemy import ARRAY, Column, DateTime, Float, ForeignKeyConstraint, Index, Integer, MetaData, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB


def declare_persona_tables(metadata: MetaData) -> tuple[Table, Table]:
    """`facet_evidence` and `facet_priors`.

    `evidence` holds the leanings of the options shown, the place of the chosen one, and the deltas of a remark
    (`app.domain.facet_evidence.Evidence`). A tenant has one prior: the mean and the rows of the covariance of the
    values of `facets`, told from neutral, over so many users.
    """
    evidence = Table(
        "facet_evidence",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("evidence_id", Uuid, primary_key=True),
        Column("user_id", Text, nullable=False),
        Column("evidence", JSONB, nullable=False),
        Column("signal_id", Uuid),
        Column("observed_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"]),
        Index("ix_facet_evidence_user", "tenant_id", "user_id", "observed_at"),
    )
    priors = Table(
        "facet_priors",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("version", Integer, nullable=False),
        Column("facets", ARRAY(Text), nullable=False),
        Column("mean", ARRAY(Float), nullable=False),
        Column("covariance", JSONB, nullable=False),
        Column("users", Integer, nullable=False),
        Column("fitted_at", DateTime(timezone=True), nullable=False),
        ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"]),
    )
    return evidence, priors
