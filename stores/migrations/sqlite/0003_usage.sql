-- What model calls used, added up. `owner` stands for (tenant, subject). A context that was deleted, or never was, is ''.
-- The cost is in millionths of the currency.
CREATE TABLE usage (
    owner TEXT NOT NULL,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    day TEXT NOT NULL,
    context TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cached_responses INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    estimated_steps INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (owner, day, context, model)
) WITHOUT ROWID;

CREATE INDEX usage_of_context ON usage (owner, context);

CREATE INDEX usage_of_tenant ON usage (tenant, day);

-- Model calls that made no event, so that none is added twice.
CREATE TABLE usage_ids (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    day TEXT NOT NULL,
    PRIMARY KEY (owner, id)
) WITHOUT ROWID;

CREATE INDEX usage_ids_by_day ON usage_ids (day);
