-- JSON (stores/refusals.py).
ALTER TABLE contexts ADD COLUMN refused bytea;
