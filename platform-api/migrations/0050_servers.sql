-- The servers that share a database. SQLite has one server, and writes nothing here.

CREATE TABLE server (
    id TEXT NOT NULL CONSTRAINT server_pkey PRIMARY KEY,
    hostname TEXT NOT NULL,
    -- Where workers and other servers reach it.
    address TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    -- By the clock of the database.
    seen_at BIGINT NOT NULL
);

-- When the lease was taken, by the clock of the database. 0: by a version that did not say so.
ALTER TABLE lease ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
