-- What users can take back, and restarts.

-- What `scale` set stands apart from what releases ask for. NULL: nothing was set, or it was taken back.

ALTER TABLE app ADD COLUMN scaled_to BIGINT;
UPDATE app SET scaled_to = replicas WHERE replicas_override;
ALTER TABLE app DROP COLUMN replicas;
ALTER TABLE app DROP COLUMN replicas_override;

-- Of the variables that `env` had set or taken away when a release was made, what its manifest says, so that they can be
-- reset: a JSON object, in which null is a variable that the manifest does not have.
ALTER TABLE release ADD COLUMN own_env TEXT NOT NULL DEFAULT '{}';

-- A restart: instances that the release has already are replaced.
ALTER TABLE rollout ADD COLUMN renews BOOLEAN NOT NULL DEFAULT FALSE;
