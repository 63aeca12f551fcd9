-- Archives of files that apps are shipped with. Their bytes are kept as those of artifacts are.

CREATE TABLE archive (
    digest TEXT NOT NULL CONSTRAINT archive_pkey PRIMARY KEY,
    bytes BIGINT NOT NULL,
    files BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- A namespace sees only the archives that were pushed to it.
CREATE TABLE namespace_archive (
    namespace TEXT NOT NULL CONSTRAINT namespace_archive_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    digest TEXT NOT NULL CONSTRAINT namespace_archive_digest_fkey REFERENCES archive (digest),
    pushed_at BIGINT NOT NULL,
    CONSTRAINT namespace_archive_pkey PRIMARY KEY (namespace, digest)
);

-- The archive that the release's settings name, so that it is kept as long as the release.
ALTER TABLE release ADD COLUMN archive TEXT;

CREATE INDEX release_archive_idx ON release (archive);
