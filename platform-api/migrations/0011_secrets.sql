-- Secrets of namespaces. A row is one value, sealed; the newest of a name is the secret as it is now.

CREATE TABLE secret_version (
    id TEXT NOT NULL CONSTRAINT secret_version_pkey PRIMARY KEY,
    namespace TEXT NOT NULL CONSTRAINT secret_version_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    -- Which key sealed it, not the key.
    key_id TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    set_at BIGINT NOT NULL,
    set_by TEXT NOT NULL,
    CONSTRAINT secret_version_version_key UNIQUE (namespace, name, version)
);

-- The versions that a release was made with. They are kept as long as the release.
CREATE TABLE release_secret (
    release TEXT NOT NULL CONSTRAINT release_secret_release_fkey REFERENCES release (id) ON DELETE CASCADE,
    secret_version TEXT NOT NULL
        CONSTRAINT release_secret_secret_version_fkey REFERENCES secret_version (id),
    CONSTRAINT release_secret_pkey PRIMARY KEY (release, secret_version)
);

CREATE INDEX release_secret_secret_version_idx ON release_secret (secret_version);
