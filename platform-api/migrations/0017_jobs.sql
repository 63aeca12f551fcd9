-- Runs to completion, and what starts them at planned times.

CREATE TABLE schedule (
    id TEXT NOT NULL CONSTRAINT schedule_pkey PRIMARY KEY,
    namespace TEXT NOT NULL CONSTRAINT schedule_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- The settings as JSON, complete.
    spec TEXT NOT NULL,
    -- The artifact and the archive that the settings name, so that they are kept as long as the schedule.
    artifact TEXT CONSTRAINT schedule_artifact_fkey REFERENCES artifact (digest),
    archive TEXT,
    -- Every planned time up to this one has been decided on.
    decided_until BIGINT NOT NULL,
    -- What became of the newest of them, as JSON.
    last TEXT,
    revision BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT schedule_name_key UNIQUE (namespace, name)
);

CREATE TABLE job (
    id TEXT NOT NULL CONSTRAINT job_pkey PRIMARY KEY,
    namespace TEXT NOT NULL CONSTRAINT job_namespace_fkey REFERENCES namespace (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    artifact TEXT NOT NULL CONSTRAINT job_artifact_fkey REFERENCES artifact (digest),
    archive TEXT,
    -- The app that it is a task of, and the number of its release. The app may have gone since.
    app TEXT,
    release BIGINT NOT NULL,
    -- The settings as JSON, complete, with those of the app.
    spec TEXT NOT NULL,
    -- For each variable of a secret, the version, as JSON.
    secrets TEXT NOT NULL,
    -- Runs at once, and what each of them reserves.
    instances BIGINT NOT NULL,
    memory_bytes BIGINT NOT NULL,
    cpu_millis BIGINT NOT NULL,
    state BIGINT NOT NULL,
    -- How it is to end, once nothing of it runs any more.
    ending BIGINT,
    reason TEXT,
    -- Whoever asks again with the same token gets the same job.
    token TEXT,
    request_hash TEXT,
    schedule TEXT CONSTRAINT job_schedule_fkey REFERENCES schedule (id) ON DELETE SET NULL,
    schedule_name TEXT,
    planned_at BIGINT,
    revision BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    -- When it is forgotten. None: it has not ended, or is kept by its schedule.
    expires_at BIGINT,
    CONSTRAINT job_token_key UNIQUE (namespace, token),
    -- A planned time has one job at most.
    CONSTRAINT job_planned_at_key UNIQUE (schedule, planned_at)
);

CREATE INDEX job_state_idx ON job (state);
CREATE INDEX job_expires_at_idx ON job (expires_at);
CREATE INDEX job_schedule_idx ON job (schedule, state);
CREATE INDEX job_namespace_idx ON job (namespace, id);
CREATE INDEX job_artifact_idx ON job (artifact);

CREATE TABLE job_run (
    id TEXT NOT NULL CONSTRAINT job_run_pkey PRIMARY KEY,
    job TEXT NOT NULL CONSTRAINT job_run_job_fkey REFERENCES job (id) ON DELETE CASCADE,
    completion BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    node TEXT NOT NULL,
    state BIGINT NOT NULL,
    -- Why it was told to stop, if it was.
    stop BIGINT,
    exit_code BIGINT,
    -- JSON.
    reason TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    CONSTRAINT job_run_attempt_key UNIQUE (job, completion, attempt)
);

CREATE INDEX job_run_state_idx ON job_run (state);

-- The versions of secrets that a job was made with. They are kept as long as it may need them.
CREATE TABLE job_secret (
    job TEXT NOT NULL CONSTRAINT job_secret_job_fkey REFERENCES job (id) ON DELETE CASCADE,
    secret_version TEXT NOT NULL CONSTRAINT job_secret_secret_version_fkey REFERENCES secret_version (id),
    CONSTRAINT job_secret_pkey PRIMARY KEY (job, secret_version)
);

CREATE INDEX job_secret_secret_version_idx ON job_secret (secret_version);
