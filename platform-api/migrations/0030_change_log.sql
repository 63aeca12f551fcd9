-- What was changed, in the order of the commits, for other processes that share the database. SQLite has none, and writes nothing here.

CREATE TABLE change (
    seq BIGINT NOT NULL CONSTRAINT change_pkey PRIMARY KEY,
    -- The process that made the change, which knows of it.
    origin TEXT NOT NULL,
    kind BIGINT NOT NULL,
    -- Id of the app or the job; empty for what has none.
    subject TEXT NOT NULL
);

INSERT INTO counter (name, value) VALUES ('change', 0);
