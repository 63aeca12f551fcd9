-- Who changed what through the API, and what was refused. Rows are never changed.

CREATE TABLE audit (
    seq BIGINT NOT NULL CONSTRAINT audit_pkey PRIMARY KEY,
    time BIGINT NOT NULL,
    -- Names and ids as they were: a record outlives what it is about. `actor` is the user, or a token that is nobody's.
    actor TEXT NOT NULL,
    token TEXT NOT NULL,
    token_name TEXT NOT NULL,
    user_name TEXT,
    remote TEXT,
    action TEXT NOT NULL,
    -- NULL: it concerns the whole platform. The id tells namespaces apart that had the same name one after the other.
    namespace TEXT,
    namespace_id TEXT,
    object TEXT NOT NULL,
    outcome BIGINT NOT NULL,
    detail TEXT,
    -- JSON.
    before_change TEXT,
    after_change TEXT
);

CREATE INDEX audit_namespace_idx ON audit (namespace, seq);
CREATE INDEX audit_time_idx ON audit (time);
CREATE INDEX audit_outcome_idx ON audit (outcome, seq);

INSERT INTO counter (name, value) VALUES ('audit', 0);
