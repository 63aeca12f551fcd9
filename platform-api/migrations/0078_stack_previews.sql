-- Previews of stacks, and what was made for them, which goes with them.

CREATE TABLE stack_preview (
    -- A UUIDv7.
    id TEXT NOT NULL CONSTRAINT stack_preview_pkey PRIMARY KEY,
    namespace TEXT NOT NULL REFERENCES namespace (id) ON DELETE CASCADE,
    -- No reference: its apps are to go when their time is over, also if the repository went before.
    repository TEXT NOT NULL,
    -- The set that its apps are of.
    name TEXT NOT NULL,
    branch TEXT NOT NULL,
    -- Of one that is to go at once it is long past.
    expires_at BIGINT NOT NULL,
    CONSTRAINT stack_preview_name UNIQUE (namespace, name)
);
CREATE INDEX stack_preview_by_repository ON stack_preview (repository);

CREATE TABLE stack_preview_part (
    preview TEXT NOT NULL REFERENCES stack_preview (id) ON DELETE CASCADE,
    -- 10: a secret. 20: a config. 30: jobs of this name. 40: an app, and volumes that it has left.
    kind BIGINT NOT NULL,
    name TEXT NOT NULL,
    CONSTRAINT stack_preview_part_pkey PRIMARY KEY (preview, kind, name)
);
