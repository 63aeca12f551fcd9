-- What `scale` set stands apart from what releases ask for. NULL: nothing was set, or it was taken back.

ALTER TABLE app ADD COLUMN scaled_to BIGINT;
UPDATE app SET scaled_to = replicas WHERE replicas_override;
ALTER TABLE app DROP COLUMN replicas;
ALTER TABLE app DROP COLUMN replicas_override;
