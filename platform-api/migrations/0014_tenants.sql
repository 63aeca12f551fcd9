-- Users, what they are in which namespace, and what tokens are limited to.

-- `user` is a word of SQL's own.
CREATE TABLE account (
    id TEXT NOT NULL CONSTRAINT account_pkey PRIMARY KEY,
    name TEXT NOT NULL CONSTRAINT account_name_key UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE member (
    account TEXT NOT NULL CONSTRAINT member_account_fkey REFERENCES account (id) ON DELETE CASCADE,
    namespace TEXT NOT NULL CONSTRAINT member_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    role BIGINT NOT NULL,
    since BIGINT NOT NULL,
    set_by TEXT NOT NULL,
    CONSTRAINT member_pkey PRIMARY KEY (account, namespace)
);

CREATE INDEX member_namespace_idx ON member (namespace);

-- NULL: nobody's. Of a user's token `role` is the most that it may do.
ALTER TABLE token ADD COLUMN account TEXT CONSTRAINT token_account_fkey REFERENCES account (id) ON DELETE CASCADE;
-- JSON list of verbs; an empty one limits nothing.
ALTER TABLE token ADD COLUMN verbs TEXT NOT NULL DEFAULT '[]';

CREATE INDEX token_account_idx ON token (account);

CREATE TABLE quota (
    namespace TEXT NOT NULL CONSTRAINT quota_pkey PRIMARY KEY
        CONSTRAINT quota_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    -- JSON; what it does not name has no limit.
    limits TEXT NOT NULL,
    -- Counted up by whoever is about to use more, so that two cannot both take what is left.
    checks BIGINT NOT NULL
);

-- What an instance of a release reserves, and how many the release asks for itself. Worked out from its spec, which never changes;
-- releases of before this table are looked at when they are asked for.
CREATE TABLE release_demand (
    release TEXT NOT NULL CONSTRAINT release_demand_pkey PRIMARY KEY
        CONSTRAINT release_demand_release_fkey REFERENCES release (id) ON DELETE CASCADE,
    replicas BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    cpu_millis BIGINT NOT NULL
);
