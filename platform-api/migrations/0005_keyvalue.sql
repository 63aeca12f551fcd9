-- What guests keep in `wasi:keyvalue`.

CREATE TABLE kv_entry (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL CONSTRAINT kv_entry_app_fkey REFERENCES app (id) ON DELETE CASCADE,
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    -- SQLite takes any word as a type; PostgreSQL knows this one.
    value BYTEA NOT NULL,
    CONSTRAINT kv_entry_pkey PRIMARY KEY (app, bucket, key)
);

-- Octets of all keys and values of a namespace, kept with each write.
CREATE TABLE kv_usage (
    namespace TEXT NOT NULL CONSTRAINT kv_usage_pkey PRIMARY KEY
        CONSTRAINT kv_usage_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    bytes BIGINT NOT NULL
);
