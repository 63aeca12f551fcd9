-- A copy of a server's data folder has the same id: which folder on which running machine the holder of the lease is of, and when that
-- process has started, by its own clock. Empty and 0: a version held it that did not say so.

ALTER TABLE lease ADD COLUMN holder_home TEXT NOT NULL DEFAULT '';
ALTER TABLE lease ADD COLUMN holder_started_at BIGINT NOT NULL DEFAULT 0;
