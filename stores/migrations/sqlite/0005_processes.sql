-- How many of the deletions the file was written anew for. Both numbers only rise, whichever process raises them.
ALTER TABLE slack ADD COLUMN covered INTEGER NOT NULL DEFAULT 0;
