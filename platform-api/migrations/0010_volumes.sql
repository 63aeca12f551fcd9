-- Volumes: folders on nodes that outlive instances, releases and, unless it is asked for otherwise, apps.

CREATE TABLE volume (
    -- Names the folder on the node. Never used again.
    id TEXT NOT NULL CONSTRAINT volume_pkey PRIMARY KEY,
    namespace TEXT NOT NULL CONSTRAINT volume_namespace_fkey REFERENCES namespace (id),
    -- Null: the app was deleted, or the volume was taken from it to be removed.
    app TEXT CONSTRAINT volume_app_fkey REFERENCES app (id) ON DELETE SET NULL,
    app_name TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Null: nothing that has it was ever placed, so there is no folder.
    node TEXT,
    size_bytes BIGINT NOT NULL,
    -- Whether the folder goes as soon as no app has it.
    removing BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX volume_app_name_key ON volume (app, name);

CREATE INDEX volume_namespace_idx ON volume (namespace);
