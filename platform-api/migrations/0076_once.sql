-- Requests that were carried out once and for all by their `Idempotency-Key`, each with its reply for whoever sends it again with the same token.

CREATE TABLE once_reply (
    token TEXT NOT NULL CONSTRAINT once_reply_token_fkey REFERENCES token (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    -- Sealed with a key made of the token's secret, which is stored nowhere. Empty: the reply is not there, or not yet.
    reply BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT once_reply_pkey PRIMARY KEY (token, key)
);

CREATE INDEX once_reply_created_at_idx ON once_reply (created_at);
CREATE INDEX once_reply_token_created_at_idx ON once_reply (token, created_at);
