-- Which platform this database is of: one row, which is made by the first start.

CREATE TABLE platform (
    -- 1.
    only_one BIGINT NOT NULL CONSTRAINT platform_pkey PRIMARY KEY,
    id TEXT NOT NULL,
    -- The bucket that has the artifacts. NULL: they are in the data directories of servers.
    artifacts TEXT,
    -- How often they have been brought to another place.
    moves BIGINT NOT NULL
);
