-- What can be searched for: the terms of each message, each between two spaces, under its event's `ord`, and those of
-- the title under an `ord` above all others. No inverted index, whose rows would cost a message many times what its event
-- does: a search walks through these, its owner's alone and the newest first (stores/sqlite_search.py).
CREATE TABLE search_texts (
    cid INTEGER NOT NULL REFERENCES contexts ON DELETE CASCADE,
    ord INTEGER NOT NULL,
    terms BLOB NOT NULL,
    PRIMARY KEY (cid, ord)
) WITHOUT ROWID;

-- What was stored before. The functions are stores/sqlite_search.py's.
INSERT INTO search_texts
SELECT cid, 4611686018427387904, terms FROM (SELECT cid, terms_of_title(title) AS terms FROM contexts)
WHERE terms IS NOT NULL;

INSERT INTO search_texts
SELECT cid, ord, terms FROM (SELECT cid, ord, terms_of_message(body) AS terms FROM events WHERE type = 'message')
WHERE terms IS NOT NULL;

CREATE INDEX sessions_of_owner ON sessions (owner);

CREATE INDEX keys_of_subject ON keys (tenant, subject);

-- How many contexts were deleted since the file was written anew (stores/sqlite_scrub.py).
CREATE TABLE slack (deletions INTEGER NOT NULL);

INSERT INTO slack VALUES (0);
