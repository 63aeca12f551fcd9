-- What users deploy: artifacts, apps, releases, rollouts, routes.

CREATE TABLE artifact (
    digest TEXT NOT NULL CONSTRAINT artifact_pkey PRIMARY KEY,
    bytes BIGINT NOT NULL,
    world TEXT NOT NULL,
    -- JSON list of strings.
    imports TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- A namespace sees only the artifacts that were pushed to it.
CREATE TABLE namespace_artifact (
    namespace TEXT NOT NULL CONSTRAINT namespace_artifact_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    digest TEXT NOT NULL CONSTRAINT namespace_artifact_digest_fkey REFERENCES artifact (digest),
    pushed_at BIGINT NOT NULL,
    CONSTRAINT namespace_artifact_pkey PRIMARY KEY (namespace, digest)
);

CREATE TABLE app (
    id TEXT NOT NULL CONSTRAINT app_pkey PRIMARY KEY,
    namespace TEXT NOT NULL CONSTRAINT app_namespace_fkey REFERENCES namespace (id),
    name TEXT NOT NULL,
    deleting BOOLEAN NOT NULL,
    replicas BIGINT NOT NULL,
    -- Whether `scale` set the replicas; a later release then leaves them as they are.
    replicas_override BOOLEAN NOT NULL,
    -- JSON object of the variables that `env` set (null: removed); they come on top of each release's own.
    env_overrides TEXT NOT NULL,
    -- Number of the newest release.
    last_release BIGINT NOT NULL,
    target_release TEXT,
    stable_release TEXT,
    -- The change that touched the app, its instances or its rollout last.
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT app_name_key UNIQUE (namespace, name)
);

CREATE TABLE release (
    id TEXT NOT NULL CONSTRAINT release_pkey PRIMARY KEY,
    app TEXT NOT NULL CONSTRAINT release_app_fkey REFERENCES app (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    artifact TEXT NOT NULL CONSTRAINT release_artifact_fkey REFERENCES artifact (digest),
    -- The settings as JSON, complete, with the variables that `env` had set by then.
    spec TEXT NOT NULL,
    cause TEXT NOT NULL,
    created_by TEXT NOT NULL,
    -- Whether a rollout once brought it into service.
    served BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT release_number_key UNIQUE (app, number)
);

CREATE INDEX release_artifact_idx ON release (artifact);

CREATE TABLE rollout (
    id TEXT NOT NULL CONSTRAINT rollout_pkey PRIMARY KEY,
    app TEXT NOT NULL CONSTRAINT rollout_app_fkey REFERENCES app (id) ON DELETE CASCADE,
    from_release TEXT,
    to_release TEXT NOT NULL CONSTRAINT rollout_to_release_fkey REFERENCES release (id) ON DELETE CASCADE,
    state BIGINT NOT NULL,
    automatic BOOLEAN NOT NULL,
    started_at BIGINT NOT NULL,
    progressed_at BIGINT NOT NULL,
    progressed_ready BIGINT NOT NULL,
    monitoring_since BIGINT,
    ended_at BIGINT,
    -- JSON.
    reason TEXT,
    rolled_back_by TEXT
);

CREATE INDEX rollout_app_idx ON rollout (app, started_at);

CREATE TABLE route (
    pattern TEXT NOT NULL CONSTRAINT route_pkey PRIMARY KEY,
    hostname TEXT NOT NULL,
    app TEXT NOT NULL CONSTRAINT route_app_fkey REFERENCES app (id) ON DELETE CASCADE
);

CREATE INDEX route_hostname_idx ON route (hostname);
CREATE INDEX route_app_idx ON route (app);

-- Replies to requests with an `Idempotency-Key`, so that a retry gets the same one.
CREATE TABLE idempotency (
    app TEXT NOT NULL CONSTRAINT idempotency_app_fkey REFERENCES app (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (app, key)
);
