-- Tables, keys and columns are those of stores/migrations/sqlite, with these differences: a context is named by (owner,
-- context_id) in every table, and all that belongs to one context is partitioned by the hash of its id. Every statement
-- names both, so that one partition is read, through an index.
--
-- No foreign keys: whoever writes to a context holds the lock on its row in `contexts` (stores/postgres_database.py), so
-- that nothing can be stored of one that is gone, and `delete_context` names all tables.
--
-- Texts are compared as bytes (COLLATE "C"): all adapters put ids in the same order.

-- Epochs of new contexts, with room for a thousand that are raised before the next one.
CREATE SEQUENCE epochs MINVALUE 0 START 0 INCREMENT BY 1024;

-- `next_order` counts the events, cancels and summaries of the context. `born` is the epoch that the context began with:
-- no other life of the same id has had it.
CREATE TABLE contexts (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    born bigint NOT NULL,
    next_order bigint NOT NULL DEFAULT 1,
    title text,
    metadata bytea,
    settings bytea,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    PRIMARY KEY (owner, context_id)
) PARTITION BY HASH (context_id);

CREATE INDEX contexts_newest ON contexts (owner, updated_at, context_id);

-- `given`: somebody else than the turn's runner stored the event.
CREATE TABLE events (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text NOT NULL,
    body bytea NOT NULL,
    ord bigint NOT NULL,
    turn_id text COLLATE "C",
    seq bigint,
    answers text COLLATE "C",
    given boolean NOT NULL,
    stored_at double precision NOT NULL,
    PRIMARY KEY (owner, context_id, id)
) PARTITION BY HASH (context_id);

CREATE UNIQUE INDEX events_in_order ON events (owner, context_id, ord);

CREATE UNIQUE INDEX events_seq ON events (owner, context_id, seq) WHERE seq IS NOT NULL;

CREATE INDEX events_of_turn ON events (owner, context_id, turn_id, ord);

CREATE INDEX events_without_seq ON events (owner, context_id, ord) WHERE seq IS NULL;

CREATE TABLE turns (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    state text NOT NULL,
    request bytea NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    runner text COLLATE "C",
    cancelled boolean NOT NULL DEFAULT false,
    draft bytea,
    place bigint NOT NULL,
    created_at double precision NOT NULL,
    PRIMARY KEY (owner, context_id, id)
) PARTITION BY HASH (context_id);

-- The turns that are not over, of which there are few however many there were.
CREATE INDEX turns_alive ON turns (owner, context_id, place) WHERE state <> 'done';

CREATE TABLE calls (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    turn_id text COLLATE "C" NOT NULL,
    runs_on text NOT NULL,
    session_id text COLLATE "C",
    needs_approval boolean NOT NULL,
    decided boolean NOT NULL DEFAULT false,
    claimed bigint NOT NULL DEFAULT 0,
    answered boolean NOT NULL DEFAULT false,
    PRIMARY KEY (owner, context_id, id)
) PARTITION BY HASH (context_id);

CREATE INDEX calls_open ON calls (owner, context_id) WHERE NOT answered;

CREATE INDEX calls_of_turn ON calls (owner, context_id, turn_id);

-- A cancel of what was not running is kept too, so that its id means nothing else later.
CREATE TABLE cancels (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    turn_id text COLLATE "C",
    call_id text COLLATE "C",
    ord bigint NOT NULL,
    PRIMARY KEY (owner, context_id, id)
) PARTITION BY HASH (context_id);

CREATE INDEX cancels_of_turn ON cancels (owner, context_id, turn_id, ord);

-- Messages that a model is always given.
CREATE TABLE pins (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    turn_id text COLLATE "C",
    PRIMARY KEY (owner, context_id, id)
) PARTITION BY HASH (context_id);

-- A summary of the conversation from its beginning up to the turn `turn_id`, the last that it covers.
CREATE TABLE summaries (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    turn_id text COLLATE "C" NOT NULL,
    first_id text COLLATE "C" NOT NULL,
    turns bigint NOT NULL,
    text text NOT NULL,
    ord bigint NOT NULL,
    PRIMARY KEY (owner, context_id, turn_id)
) PARTITION BY HASH (context_id);

-- What can be searched for: the terms of each message under its event's `ord`, and those of the title under an `ord`
-- above all others (stores/postgres_search.py).
CREATE TABLE search_texts (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    ord bigint NOT NULL,
    terms tsvector NOT NULL,
    PRIMARY KEY (owner, context_id, ord)
) PARTITION BY HASH (context_id);

-- `put` rises with every put.
CREATE SEQUENCE session_puts;

CREATE TABLE sessions (
    id text COLLATE "C" PRIMARY KEY,
    put bigint NOT NULL DEFAULT nextval('session_puts'),
    owner text COLLATE "C" NOT NULL,
    attempt bigint NOT NULL,
    expires_at double precision NOT NULL,
    tools bytea NOT NULL,
    contexts text[] NOT NULL,
    holder text COLLATE "C"
);

CREATE INDEX sessions_of_owner ON sessions (owner, put);

CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE keys (
    id text COLLATE "C" PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    role text,
    created_at double precision NOT NULL,
    revoked_at double precision
);

CREATE INDEX keys_of_subject ON keys (tenant, subject);

-- What model calls used, added up. `owner` stands for (tenant, subject). A context that was deleted, or never was, is ''.
-- The cost is in millionths of the currency.
CREATE TABLE usage (
    owner text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    day text COLLATE "C" NOT NULL,
    context text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cached_responses bigint NOT NULL,
    steps bigint NOT NULL,
    estimated_steps bigint NOT NULL,
    cost bigint NOT NULL,
    PRIMARY KEY (owner, day, context, model)
);

CREATE INDEX usage_of_context ON usage (owner, context);

CREATE INDEX usage_of_tenant ON usage (tenant, day);

-- Model calls that made no event, so that none is added twice.
CREATE TABLE usage_ids (
    owner text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    day text COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, id)
);

CREATE INDEX usage_ids_by_day ON usage_ids (day);

-- Partitions, and the second wall between owners: a transaction sees and changes the rows of the owner that it named
-- (`SET LOCAL tidegate.owner`), all rows where it said '*', which no owner is called, and none where it said nothing.
-- Keys belong to the instance. A partition is reached through its table alone.
DO $$
DECLARE
    name text;
    part text;
    everything CONSTANT text := 'current_setting(''tidegate.owner'', true) = ''*''';
    own CONSTANT text := 'owner = current_setting(''tidegate.owner'', true)';
BEGIN
    FOREACH name IN ARRAY ARRAY['contexts', 'events', 'turns', 'calls', 'cancels', 'pins', 'summaries', 'search_texts',
                                'sessions', 'keys', 'usage', 'usage_ids']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_owner ON %I USING (%s)', name,
                       CASE name WHEN 'keys' THEN everything ELSE own || ' OR ' || everything END);
        CONTINUE WHEN name IN ('sessions', 'keys', 'usage', 'usage_ids');
        FOR number IN 0..7 LOOP
            part := name || '_' || number;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 8, REMAINDER %s)',
                           part, name, number);
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
        END LOOP;
    END LOOP;
END
$$;
