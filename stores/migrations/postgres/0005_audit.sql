-- Decisions about calls of tools, outcomes of calls, readings of resources. No record is bound to its context, so that
-- this is partitioned by none. `owner` stands for (tenant, subject).
CREATE TABLE audit (
    id text COLLATE "C" PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    outcome text NOT NULL,
    via text NOT NULL,
    decided_by text,
    tool text COLLATE "C",
    uri text,
    context_id text COLLATE "C",
    turn_id text COLLATE "C",
    call_id text COLLATE "C",
    parameters_hash text,
    parameters bytea,
    seconds double precision
);

CREATE INDEX audit_of_tenant ON audit (tenant, at, id);

CREATE INDEX audit_of_subject ON audit (tenant, subject, at, id);

CREATE INDEX audit_of_tool ON audit (tenant, tool, at, id);

-- For pruning alone; records come in the order of their time, or nearly.
CREATE INDEX audit_by_age ON audit USING brin (at);

ALTER TABLE audit ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit FORCE ROW LEVEL SECURITY;

-- A transaction adds records of the owner that it named, reads those of the tenant that it named ('tenant:' before it, which
-- no owner is called), and deletes where it said '*'. None changes one: there is no policy that lets it.
CREATE POLICY added_by_owner ON audit FOR INSERT
    WITH CHECK (owner = current_setting('tidegate.owner', true));

CREATE POLICY read_by_tenant ON audit FOR SELECT
    USING (current_setting('tidegate.owner', true) IN ('tenant:' || tenant, '*'));

CREATE POLICY pruned_for_all ON audit FOR DELETE
    USING (current_setting('tidegate.owner', true) = '*');
