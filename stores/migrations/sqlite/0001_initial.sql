-- `cid` stands for (owner, id) in every other table. `next_order` counts the events and cancels of the context.
CREATE TABLE contexts (
    cid INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    next_order INTEGER NOT NULL DEFAULT 1,
    title TEXT,
    metadata BLOB,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    UNIQUE (owner, id)
);

CREATE INDEX contexts_newest ON contexts (owner, updated_at, id);

-- The least epoch that a new context may have: above that of every context that was deleted.
CREATE TABLE epoch_floor (floor INTEGER NOT NULL);

INSERT INTO epoch_floor VALUES (0);

-- `given` is 1 where somebody else than the turn's runner stored the event.
CREATE TABLE events (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    body BLOB NOT NULL,
    ord INTEGER NOT NULL,
    turn_id TEXT,
    seq INTEGER,
    answers TEXT,
    given INTEGER NOT NULL,
    stored_at REAL NOT NULL,
    PRIMARY KEY (cid, id)
) WITHOUT ROWID;

CREATE UNIQUE INDEX events_seq ON events (cid, seq) WHERE seq IS NOT NULL;

CREATE INDEX events_without_seq ON events (cid, ord) WHERE seq IS NULL;

CREATE INDEX events_of_turn ON events (cid, turn_id, ord);

CREATE TABLE turns (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    request BLOB NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0,
    runner TEXT,
    cancelled INTEGER NOT NULL DEFAULT 0,
    draft BLOB,
    place INTEGER NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (cid, id)
) WITHOUT ROWID;

CREATE INDEX turns_alive ON turns (cid, place) WHERE state != 'done';

CREATE TABLE calls (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    runs_on TEXT NOT NULL,
    session_id TEXT,
    needs_approval INTEGER NOT NULL,
    decided INTEGER NOT NULL DEFAULT 0,
    claimed INTEGER NOT NULL DEFAULT 0,
    answered INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (cid, id)
) WITHOUT ROWID;

CREATE INDEX calls_open ON calls (cid) WHERE answered = 0;

CREATE INDEX calls_of_turn ON calls (cid, turn_id);

-- A cancel of what was not running is kept too, so that its id means nothing else later.
CREATE TABLE cancels (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    id TEXT NOT NULL,
    turn_id TEXT,
    call_id TEXT,
    ord INTEGER NOT NULL,
    PRIMARY KEY (cid, id)
) WITHOUT ROWID;

CREATE INDEX cancels_of_turn ON cancels (cid, turn_id);

-- `put` rises with every put.
CREATE TABLE sessions (
    put INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    tools BLOB NOT NULL,
    contexts TEXT NOT NULL,
    holder TEXT
);

CREATE INDEX sessions_with_tools ON sessions (owner) WHERE tools != X'5B5D';

CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    role TEXT,
    created_at REAL NOT NULL,
    revoked_at REAL
) WITHOUT ROWID;
