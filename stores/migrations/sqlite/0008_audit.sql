-- Decisions about calls of tools, outcomes of calls, readings of resources. No record is bound to its context, or changed.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    via TEXT NOT NULL,
    decided_by TEXT,
    tool TEXT,
    uri TEXT,
    context_id TEXT,
    turn_id TEXT,
    call_id TEXT,
    parameters_hash TEXT,
    parameters BLOB,
    seconds REAL
) WITHOUT ROWID;

CREATE INDEX audit_of_tenant ON audit (tenant, at, id);

CREATE INDEX audit_of_subject ON audit (tenant, subject, at, id);

CREATE INDEX audit_of_tool ON audit (tenant, tool, at, id);

CREATE INDEX audit_by_age ON audit (at);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'an audit record is not changed'); END;
