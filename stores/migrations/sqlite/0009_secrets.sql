-- Secrets that are kept for their owners, sealed by the gateway. Each value has another `version` than any before it.
CREATE TABLE secrets (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;
