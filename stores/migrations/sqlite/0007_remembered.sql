-- What a decision on a call may be remembered under, and whether an approval is without being asked to.
ALTER TABLE calls ADD COLUMN definition TEXT;

ALTER TABLE calls ADD COLUMN first INTEGER NOT NULL DEFAULT 0;

-- Decisions that hold for all later calls of a context. `definition` names a tool as it was when it was decided.
CREATE TABLE remembered (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    definition TEXT NOT NULL,
    approved INTEGER NOT NULL,
    PRIMARY KEY (cid, definition)
) WITHOUT ROWID;
