-- A file's bytes are the blob under the key `blob`, which is null once they are gone. `scope_session` is the session
-- that brought the file forth; its row may be gone.
CREATE TABLE files (
    id            TEXT PRIMARY KEY,
    workspace_id  TEXT NOT NULL,
    filename      TEXT NOT NULL,
    mime_type     TEXT NOT NULL,
    size_bytes    INTEGER NOT NULL,
    sha256        TEXT NOT NULL,
    downloadable  INTEGER NOT NULL,
    scope_session TEXT,
    blob          TEXT,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER
) STRICT;
CREATE INDEX files_by_age ON files (workspace_id, created_at, id);
CREATE INDEX files_by_scope ON files (scope_session, created_at, id) WHERE scope_session IS NOT NULL;
CREATE INDEX files_ending ON files (expires_at) WHERE expires_at IS NOT NULL AND blob IS NOT NULL;

-- Blobs that no file has: those that are being written, and those that are to be removed. A blob is noted here before
-- its first byte is written, so whatever a crash leaves can be found without looking through all of them.
CREATE TABLE loose_blobs (
    blob  TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;

-- What a session's sandbox gets. `spec` is what is public of it.
CREATE TABLE session_resources (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL,
    mount_path   TEXT NOT NULL,
    file_id      TEXT,
    spec         TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX session_resources_of_session ON session_resources (session_id, number);

-- Sealed under the data key of the workspace, as the secrets of vaults are.
CREATE TABLE session_resource_secrets (
    resource_id TEXT NOT NULL,
    field       TEXT NOT NULL,
    data_key_id TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    PRIMARY KEY (resource_id, field)
) STRICT;

-- What a session's sandbox handed over, or what was kept back and why.
CREATE TABLE session_outputs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL,
    path         TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('stored', 'refused')),
    size_bytes   INTEGER,
    sha256       TEXT,
    file_id      TEXT,
    reason       TEXT,
    created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX session_outputs_of_session ON session_outputs (session_id, number);
CREATE UNIQUE INDEX session_outputs_stored ON session_outputs (session_id, path, sha256) WHERE state = 'stored';

-- Results of tools that are too long for a conversation, by the call's event.
CREATE TABLE session_texts (
    session_id   TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    text         TEXT NOT NULL,
    characters   INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (session_id, event_id)
) STRICT;
