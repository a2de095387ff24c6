-- Times are microseconds since the Unix epoch. Every table that a client can reach carries its workspace.

CREATE TABLE workspaces (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    is_default INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX workspaces_default ON workspaces (is_default) WHERE is_default = 1;

CREATE TABLE agents (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    version      INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    archived_at  INTEGER
) STRICT;
CREATE INDEX agents_by_age ON agents (workspace_id, created_at, id);

CREATE TABLE agent_versions (
    agent_id   TEXT NOT NULL,
    version    INTEGER NOT NULL,
    spec       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (agent_id, version)
) STRICT;

CREATE TABLE environments (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('self_hosted', 'cloud')),
    name         TEXT NOT NULL,
    description  TEXT,
    config       TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    scope        TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    archived_at  INTEGER
) STRICT;
CREATE INDEX environments_by_age ON environments (workspace_id, created_at, id);

-- Secrets are kept as SHA-256 only.
CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    name         TEXT NOT NULL,
    role         TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT;
CREATE INDEX api_keys_by_age ON api_keys (workspace_id, created_at, id);

CREATE TABLE environment_keys (
    id             TEXT PRIMARY KEY,
    workspace_id   TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    name           TEXT NOT NULL,
    hash           BLOB NOT NULL UNIQUE,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER,
    revoked_at     INTEGER,
    last_used_at   INTEGER
) STRICT;
CREATE INDEX environment_keys_by_age ON environment_keys (environment_id, created_at, id);

-- Keys of the server's own workers: one row per name, each serves every cloud environment.
CREATE TABLE worker_keys (
    name       TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- What seldom changes of a session. What changes with every append is in session_state, whose rows are small.
CREATE TABLE sessions (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL,
    workspace_id     TEXT NOT NULL,
    environment_id   TEXT NOT NULL,
    environment_kind TEXT NOT NULL,
    agent_id         TEXT NOT NULL,
    agent_version    INTEGER NOT NULL,
    thread_id        TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    title            TEXT,
    metadata         TEXT NOT NULL,
    agent            TEXT NOT NULL,
    genesis          TEXT NOT NULL,
    vault_ids        TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_by_id ON sessions (id, workspace_id);
CREATE INDEX sessions_by_age ON sessions (workspace_id, created_at, id);
CREATE INDEX sessions_by_agent ON sessions (agent_id, created_at, id);
CREATE INDEX sessions_by_environment ON sessions (environment_id);

CREATE TABLE session_state (
    number           INTEGER PRIMARY KEY,
    last_seq         INTEGER NOT NULL,
    status           TEXT NOT NULL CHECK (status IN ('rescheduling', 'running', 'idle', 'terminated')),
    usage            TEXT NOT NULL,
    updated_at       INTEGER NOT NULL,
    archived_at      INTEGER,
    wake_at          INTEGER,
    needs_owner      INTEGER NOT NULL,
    needs_worker     INTEGER NOT NULL,
    owner            TEXT,
    generation       INTEGER NOT NULL DEFAULT 0,
    lease_expires_at INTEGER
) STRICT;
CREATE INDEX session_state_due ON session_state (needs_owner, wake_at) WHERE needs_owner = 1;
CREATE INDEX session_state_served ON session_state (number) WHERE needs_worker = 1;
CREATE INDEX session_state_waking ON session_state (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX session_state_owned ON session_state (owner) WHERE owner IS NOT NULL;

-- Rows are added at the end of the table, so appends of many sessions share their pages.
CREATE TABLE events (
    place        INTEGER PRIMARY KEY,
    session      INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    event_id     TEXT NOT NULL,
    type         TEXT NOT NULL,
    in_thread    INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    processed_at INTEGER,
    body         TEXT NOT NULL,
    private      TEXT
) STRICT;
CREATE UNIQUE INDEX events_by_id ON events (event_id);
CREATE UNIQUE INDEX events_processed ON events (session, seq) WHERE processed_at IS NOT NULL;
CREATE UNIQUE INDEX events_queued ON events (session, seq) WHERE processed_at IS NULL;

-- polled_by_key is the environment key that the present token was given to. given_up counts the items of the session
-- that workers gave up in a row before this one, which is not offered before not_before.
CREATE TABLE work (
    id                  TEXT PRIMARY KEY,
    workspace_id        TEXT NOT NULL,
    environment_id      TEXT NOT NULL,
    environment_kind    TEXT NOT NULL,
    session_id          TEXT NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'active', 'stopping', 'stopped')),
    metadata            TEXT NOT NULL,
    created_at          INTEGER NOT NULL,
    queued_at           INTEGER NOT NULL,
    polled_at           INTEGER,
    polled_by           TEXT,
    polled_by_key       TEXT,
    acknowledged_at     INTEGER,
    started_at          INTEGER,
    latest_heartbeat_at INTEGER,
    stop_requested_at   INTEGER,
    stopped_at          INTEGER,
    ttl_seconds         INTEGER NOT NULL,
    lease_updated_at    INTEGER,
    lease_expires_at    INTEGER,
    token_hash          BLOB,
    given_up            INTEGER NOT NULL DEFAULT 0,
    not_before          INTEGER
) STRICT;
CREATE UNIQUE INDEX work_live ON work (session_id) WHERE state <> 'stopped';
CREATE INDEX work_by_session ON work (session_id, created_at, id);
CREATE INDEX work_by_age ON work (environment_id, created_at, id);
CREATE INDEX work_queue ON work (environment_id, created_at, id) WHERE state = 'queued';
CREATE INDEX work_cloud_queue ON work (environment_kind, created_at, id) WHERE state = 'queued';
CREATE INDEX work_leases ON work (lease_expires_at) WHERE state IN ('starting', 'active', 'stopping');
CREATE INDEX work_deferred ON work (not_before) WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX work_ended ON work (stopped_at) WHERE state = 'stopped';
CREATE INDEX work_by_key ON work (polled_by_key) WHERE polled_by_key IS NOT NULL;
CREATE UNIQUE INDEX work_tokens ON work (token_hash) WHERE token_hash IS NOT NULL;

CREATE TABLE vaults (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    archived_at  INTEGER
) STRICT;
CREATE INDEX vaults_by_age ON vaults (workspace_id, created_at, id);

-- slot is what a credential is for: the address of an MCP server or the name of a variable. A vault has one credential
-- in force per slot. generation counts the changes of its secrets. What is secret is in vault_secrets only.
CREATE TABLE vault_credentials (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    vault_id     TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('mcp', 'variable')),
    slot         TEXT NOT NULL,
    display_name TEXT,
    auth         TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    archived_at  INTEGER
) STRICT;
CREATE INDEX vault_credentials_by_age ON vault_credentials (vault_id, created_at, id);
CREATE UNIQUE INDEX vault_credentials_slots ON vault_credentials (vault_id, kind, slot) WHERE archived_at IS NULL;

-- Sealed by the plane; the store cannot open them.
CREATE TABLE vault_secrets (
    credential_id TEXT NOT NULL,
    field         TEXT NOT NULL,
    data_key_id   TEXT NOT NULL,
    sealed        BLOB NOT NULL,
    PRIMARY KEY (credential_id, field)
) STRICT, WITHOUT ROWID;

-- Each is sealed under the master key that master_key_id names, which is never in the database.
CREATE TABLE data_keys (
    id            TEXT PRIMARY KEY,
    workspace_id  TEXT NOT NULL UNIQUE,
    master_key_id TEXT NOT NULL,
    sealed        BLOB NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;
