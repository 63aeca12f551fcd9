-- What a repository takes of the disk, as it was measured last.

ALTER TABLE repository ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
