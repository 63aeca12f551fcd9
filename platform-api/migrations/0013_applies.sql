-- Apps know the set that they were applied under, and an apply that is sent again gets its first reply.

ALTER TABLE app ADD COLUMN applied_set TEXT;

CREATE INDEX app_applied_set_idx ON app (namespace, applied_set);

CREATE TABLE apply_reply (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT apply_reply_pkey PRIMARY KEY (token, key)
);
