-- The inverted index of searches (stores/postgres_search.py). Row security keeps an index from being used for an operator
-- that is not leakproof, and `@@` is none. So reading this table is not bound to the owner: each lexeme begins with a tag
-- of its owner, and a search reads titles and messages from tables that are bound. Changing it is.
ALTER POLICY of_owner ON search_texts
    USING (true)
    WITH CHECK (owner = current_setting('tidegate.owner', true) OR current_setting('tidegate.owner', true) = '*');

CREATE POLICY updates_of_owner ON search_texts AS RESTRICTIVE FOR UPDATE
    USING (owner = current_setting('tidegate.owner', true) OR current_setting('tidegate.owner', true) = '*');

CREATE POLICY deletions_of_owner ON search_texts AS RESTRICTIVE FOR DELETE
    USING (owner = current_setting('tidegate.owner', true) OR current_setting('tidegate.owner', true) = '*');

-- What was not sorted into the index yet is looked through by every search: 256 KiB a partition at most.
CREATE INDEX search_texts_terms ON search_texts USING gin (terms) WITH (gin_pending_list_limit = 256);
