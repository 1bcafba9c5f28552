-- `born` is the epoch that the context began with: no other life of the same id has had it.
ALTER TABLE contexts ADD COLUMN born INTEGER NOT NULL DEFAULT -1;

ALTER TABLE contexts ADD COLUMN settings BLOB;

CREATE UNIQUE INDEX events_in_order ON events (cid, ord);

-- Messages that a model is always given.
CREATE TABLE pins (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    id TEXT NOT NULL,
    turn_id TEXT,
    PRIMARY KEY (cid, id)
) WITHOUT ROWID;

-- A summary of the conversation from its beginning up to the turn `turn_id`, the last that it covers.
CREATE TABLE summaries (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    turn_id TEXT NOT NULL,
    first_id TEXT NOT NULL,
    turns INTEGER NOT NULL,
    text TEXT NOT NULL,
    ord INTEGER NOT NULL,
    PRIMARY KEY (cid, turn_id)
) WITHOUT ROWID;
