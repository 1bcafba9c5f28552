-- When a parked turn wants a runner though nobody came (seconds since 1970; null: never).
ALTER TABLE turns ADD COLUMN wake_at double precision;

-- Turns that were parked before have their deadlines made out once, by whoever takes them up.
SET LOCAL tidegate.owner = '*';

UPDATE turns SET wake_at = 0 WHERE state = 'parked';

-- Whoever looks for turns that want a runner each second reads none that is parked and waits.
CREATE INDEX turns_wanting ON turns (owner, context_id, place) WHERE state IN ('queued', 'running', 'ended');

CREATE INDEX turns_due ON turns (wake_at) WHERE state = 'parked' AND wake_at IS NOT NULL;

-- A person said no: nobody else answers the call.
ALTER TABLE calls ADD COLUMN denied boolean NOT NULL DEFAULT false;
