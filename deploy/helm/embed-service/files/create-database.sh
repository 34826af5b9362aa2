#!/bin/bash
# PostgreSQL's image reads this once, on an empty volume: the service's database, with pgvector, and a role for it that
# cannot bypass row-level security. EMBED_PASSWORD is that role's password.
psql -v ON_ERROR_STOP=1 -v password="${EMBED_PASSWORD:?}" -U "${POSTGRES_USER:-postgres}" -d postgres <<'SQL'
CREATE ROLE embed LOGIN PASSWORD :'password';
CREATE DATABASE embed OWNER embed;
\connect embed
CREATE EXTENSION vector;
SQL
