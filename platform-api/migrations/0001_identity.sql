-- Who there is: namespaces, tokens, workers. Every statement is valid on SQLite and on PostgreSQL: ids are UUIDs as text,
-- times are microseconds since 1970, states are numbers with gaps for states to come.

CREATE TABLE counter (
    name TEXT NOT NULL CONSTRAINT counter_pkey PRIMARY KEY,
    value BIGINT NOT NULL
);

-- `starts` counts the starts of the control plane, `revision` the changes, `event` the events.
INSERT INTO counter (name, value) VALUES ('starts', 0), ('revision', 0), ('event', 0);

CREATE TABLE namespace (
    id TEXT NOT NULL CONSTRAINT namespace_pkey PRIMARY KEY,
    name TEXT NOT NULL CONSTRAINT namespace_name_key UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE token (
    id TEXT NOT NULL CONSTRAINT token_pkey PRIMARY KEY,
    name TEXT NOT NULL,
    -- BLAKE3 of the secret, in hexadecimal digits.
    secret_hash TEXT NOT NULL CONSTRAINT token_secret_hash_key UNIQUE,
    role BIGINT NOT NULL,
    -- NULL: every namespace.
    namespace TEXT CONSTRAINT token_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    -- The one whose secret stands in the data directory.
    bootstrap BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE node (
    id TEXT NOT NULL CONSTRAINT node_pkey PRIMARY KEY,
    hostname TEXT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    cpus BIGINT NOT NULL,
    version TEXT NOT NULL,
    registered_at BIGINT NOT NULL
);
