-- Hosts that join, who they are from then on, and what admins say of nodes.

CREATE TABLE join_token (
    id TEXT NOT NULL CONSTRAINT join_token_pkey PRIMARY KEY,
    secret_hash TEXT NOT NULL CONSTRAINT join_token_secret_hash_key UNIQUE,
    -- The only node that may come with it, to get another certificate. NULL: a new one each time.
    node TEXT,
    uses_left BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The nodes that have got a certificate, by id. The id of a removed one is never given again, and its certificates count no more.
CREATE TABLE node_identity (
    id TEXT NOT NULL CONSTRAINT node_identity_pkey PRIMARY KEY,
    joined_at BIGINT NOT NULL,
    removed_at BIGINT
);

-- Whether it is to be emptied, and nothing new placed on it.
ALTER TABLE node ADD COLUMN draining BOOLEAN NOT NULL DEFAULT FALSE;

-- Where other nodes reach its instances. NULL: nobody does.
ALTER TABLE node ADD COLUMN address TEXT;

-- Labels that admins set, as JSON; they count before those of the worker.
ALTER TABLE node ADD COLUMN set_labels TEXT NOT NULL DEFAULT '{}';
