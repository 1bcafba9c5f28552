-- When a parked turn wants a runner though nobody came (seconds since 1970; null: never). Turns that were parked before, or
-- are by an instance of the version before that still runs, have their deadlines made out once, by whoever takes them up.
ALTER TABLE turns ADD COLUMN wake_at double precision DEFAULT 0;

-- Whoever looks for turns that want a runner each second reads none that is parked and waits.
CREATE INDEX turns_wanting ON turns (owner, context_id, place) WHERE state IN ('queued', 'running', 'ended');

CREATE INDEX turns_due ON turns (wake_at) WHERE state = 'parked' AND wake_at IS NOT NULL;
