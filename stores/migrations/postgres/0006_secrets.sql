-- Secrets that are kept for their owners, sealed by the gateway. Each value has another `version` than any before it.
CREATE TABLE secrets (
    owner text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (owner, name)
);

ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;

ALTER TABLE secrets FORCE ROW LEVEL SECURITY;

CREATE POLICY of_owner ON secrets
    USING (owner = current_setting('tidegate.owner', true) OR current_setting('tidegate.owner', true) = '*');
