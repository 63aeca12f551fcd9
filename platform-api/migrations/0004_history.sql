-- What happened: facts for users, and the log of changes that watchers follow.

CREATE TABLE event (
    seq BIGINT NOT NULL CONSTRAINT event_pkey PRIMARY KEY,
    time BIGINT NOT NULL,
    -- Names, not ids: events outlive what they are about.
    namespace TEXT NOT NULL,
    app TEXT,
    kind TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE INDEX event_app_idx ON event (namespace, app, seq);

CREATE TABLE change (
    revision BIGINT NOT NULL CONSTRAINT change_pkey PRIMARY KEY,
    app TEXT NOT NULL
);
