-- What runs where.

CREATE TABLE instance (
    id TEXT NOT NULL CONSTRAINT instance_pkey PRIMARY KEY,
    app TEXT NOT NULL CONSTRAINT instance_app_fkey REFERENCES app (id) ON DELETE CASCADE,
    release TEXT NOT NULL CONSTRAINT instance_release_fkey REFERENCES release (id) ON DELETE CASCADE,
    slot BIGINT NOT NULL,
    node TEXT,
    wanted BIGINT NOT NULL,
    state BIGINT NOT NULL,
    health BIGINT NOT NULL,
    restarts BIGINT NOT NULL,
    -- JSON.
    reason TEXT,
    replaced BOOLEAN NOT NULL,
    was_healthy BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE INDEX instance_app_idx ON instance (app, state);
CREATE INDEX instance_release_idx ON instance (release);
