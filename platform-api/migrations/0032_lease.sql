-- Who leads, of the servers that share a database. SQLite has one server, and writes nothing here.

CREATE TABLE lease (
    name TEXT NOT NULL CONSTRAINT lease_pkey PRIMARY KEY,
    -- The value of the counter `starts` that the holder drew.
    epoch BIGINT NOT NULL,
    -- Which server, and where others reach it.
    holder TEXT NOT NULL,
    address TEXT NOT NULL,
    -- By the clock of the database.
    expires_at BIGINT NOT NULL
);

INSERT INTO lease (name, epoch, holder, address, expires_at) VALUES ('leader', 0, '', '', 0);
