-- A tunnel's row is never deleted, so its domain is never given out again. token_sealed can be opened by the plane
-- only; token_hash is what connections are compared with. Both are null once the tunnel is archived.
CREATE TABLE tunnels (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    display_name TEXT,
    domain       TEXT NOT NULL UNIQUE,
    created_at   INTEGER NOT NULL,
    archived_at  INTEGER,
    paused_at    INTEGER,
    token_id     TEXT NOT NULL,
    token_sealed BLOB,
    token_hash   BLOB,
    generation   INTEGER NOT NULL
) STRICT;
CREATE INDEX tunnels_by_age ON tunnels (workspace_id, created_at, id);

-- Who asked for a new token, when, and in their own words why.
CREATE TABLE tunnel_rotations (
    tunnel_id  TEXT NOT NULL,
    generation INTEGER NOT NULL,
    token_id   TEXT NOT NULL,
    rotated_at INTEGER NOT NULL,
    rotated_by TEXT NOT NULL,
    reason     TEXT,
    PRIMARY KEY (tunnel_id, generation)
) STRICT;

CREATE TABLE tunnel_certificates (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    tunnel_id    TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    der          BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    archived_at  INTEGER
) STRICT;
CREATE INDEX tunnel_certificates_by_age ON tunnel_certificates (tunnel_id, created_at, id);
CREATE UNIQUE INDEX tunnel_certificates_trusted ON tunnel_certificates (tunnel_id, fingerprint)
    WHERE archived_at IS NULL;

CREATE TABLE tunnel_usage (
    tunnel_id  TEXT NOT NULL,
    route      TEXT NOT NULL,
    calls      INTEGER NOT NULL,
    bytes_in   INTEGER NOT NULL,
    bytes_out  INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tunnel_id, route)
) STRICT;

-- Tokens of workloads, as SHA-256 only.
CREATE TABLE federated_tokens (
    hash         BLOB PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    rule_id      TEXT NOT NULL,
    subject      TEXT NOT NULL,
    scope        TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX federated_tokens_ended ON federated_tokens (expires_at);
