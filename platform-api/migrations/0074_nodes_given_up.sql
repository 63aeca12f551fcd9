-- What whoever leads next has to know of a node: whether it was given up, and when it was seen, to the minute.

ALTER TABLE node ADD COLUMN given_up BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE node ADD COLUMN seen_at BIGINT NOT NULL DEFAULT 0;
UPDATE node SET seen_at = registered_at;
