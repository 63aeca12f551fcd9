-- The CAs of the cluster, whose keys are sealed with the key for secrets.

CREATE TABLE authority (
    -- The SHA-256 of the certificate.
    id TEXT NOT NULL CONSTRAINT authority_pkey PRIMARY KEY,
    -- In PEM.
    certificate TEXT NOT NULL,
    key_id TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    -- 10: believed, and signs nothing yet. 20: signs. 30: believed, and signs nothing any more.
    stage BIGINT NOT NULL,
    -- Whether nodes that are silent are not waited for.
    forced BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
