-- A person said no: nobody else answers the call. (Not in the migration before: one that locks two tables that are in use
-- waits for whoever waits for it.)
ALTER TABLE calls ADD COLUMN denied boolean NOT NULL DEFAULT false;

-- What a decision on a call may be remembered under, and whether an approval is without being asked to.
ALTER TABLE calls ADD COLUMN definition text COLLATE "C";

ALTER TABLE calls ADD COLUMN first boolean NOT NULL DEFAULT false;

-- Decisions that hold for all later calls of a context. `definition` names a tool as it was when it was decided.
CREATE TABLE remembered (
    owner text COLLATE "C" NOT NULL,
    context_id text COLLATE "C" NOT NULL,
    definition text COLLATE "C" NOT NULL,
    approved boolean NOT NULL,
    PRIMARY KEY (owner, context_id, definition)
) PARTITION BY HASH (context_id);

ALTER TABLE remembered ENABLE ROW LEVEL SECURITY;

ALTER TABLE remembered FORCE ROW LEVEL SECURITY;

CREATE POLICY of_owner ON remembered
    USING (owner = current_setting('tidegate.owner', true) OR current_setting('tidegate.owner', true) = '*');

DO $$
DECLARE
    part text;
BEGIN
    FOR number IN 0..7 LOOP
        part := 'remembered_' || number;
        EXECUTE format('CREATE TABLE %I PARTITION OF remembered FOR VALUES WITH (MODULUS 8, REMAINDER %s)', part, number);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
    END LOOP;
END
$$;
