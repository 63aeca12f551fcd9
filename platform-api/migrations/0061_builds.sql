-- What is pushed with git: repositories, the builds of what was pushed, and apps that are previews of another.

CREATE TABLE repository (
    -- A UUID. The folder of the objects is called so, and is never used for another repository.
    id TEXT NOT NULL CONSTRAINT repository_pkey PRIMARY KEY,
    namespace TEXT NOT NULL REFERENCES namespace (id) ON DELETE CASCADE,
    -- Whether or not the app has been made yet.
    app_name TEXT NOT NULL,
    -- What is pushed to this branch is deployed.
    branch TEXT NOT NULL,
    -- What a push does while another is under way. 10: it waits. 20: it fails.
    when_busy BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT repository_app UNIQUE (namespace, app_name)
);

CREATE TABLE build (
    -- A UUIDv7.
    id TEXT NOT NULL CONSTRAINT build_pkey PRIMARY KEY,
    repository TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    -- The app that it is for: the repository's, or a preview of it.
    app_name TEXT NOT NULL,
    branch TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- 10: waits for another. 20: is made. 30: its release is rolled out. 100: serves. 110: failed. 120: was cancelled.
    state BIGINT NOT NULL,
    -- Why it did not serve.
    problem TEXT,
    -- The number of the release that was made.
    release BIGINT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX build_by_repository ON build (repository, id);

CREATE TABLE preview (
    app TEXT NOT NULL CONSTRAINT preview_pkey PRIMARY KEY REFERENCES app (id) ON DELETE CASCADE,
    repository TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    branch TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX preview_by_repository ON preview (repository);
