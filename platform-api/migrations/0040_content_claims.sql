-- Who does something with bytes in a bucket that several servers share: one brings them in, or one removes them, never both.
-- Where each server has a folder of its own, nothing is written here.

CREATE TABLE content_claim (
    digest TEXT NOT NULL CONSTRAINT content_claim_pkey PRIMARY KEY,
    -- 10: somebody brings them in, until an hour has passed; 20: they are being removed.
    kind BIGINT NOT NULL,
    claimed_at BIGINT NOT NULL
);
