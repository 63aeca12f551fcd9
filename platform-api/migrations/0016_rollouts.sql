-- What users wish of a rollout, what it remembers of its failures and its trial, and apps that are stopped.

ALTER TABLE app ADD COLUMN stopped_at BIGINT;
-- Name of the token.
ALTER TABLE app ADD COLUMN stopped_by TEXT;

-- Whether it brings back a release.
ALTER TABLE rollout ADD COLUMN backwards BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE rollout SET backwards = automatic;
-- When an instance of the new release became ready last.
ALTER TABLE rollout ADD COLUMN stepped_at BIGINT;
-- JSON list of the slots in which the new release has failed since `judged_since` (null: since the start).
ALTER TABLE rollout ADD COLUMN failed_slots TEXT NOT NULL DEFAULT '[]';
ALTER TABLE rollout ADD COLUMN judged_since BIGINT;
-- The trial; and, as JSON, the requests of the rollout before it.
ALTER TABLE rollout ADD COLUMN canary_since BIGINT;
ALTER TABLE rollout ADD COLUMN canary_before TEXT;
-- Names of tokens. Paused by nobody: by `update.on_failure`.
ALTER TABLE rollout ADD COLUMN paused_at BIGINT;
ALTER TABLE rollout ADD COLUMN paused_by TEXT;
ALTER TABLE rollout ADD COLUMN aborted_by TEXT;
-- Whether requests are still counted for it.
ALTER TABLE rollout ADD COLUMN counting BOOLEAN NOT NULL DEFAULT FALSE;

-- Requests during a rollout, by the ingress that counted them. Its totals began with a run of its worker; those of the rollout are the
-- difference between the newest and those of the beginning, both JSON.
CREATE TABLE rollout_requests (
    rollout TEXT NOT NULL CONSTRAINT rollout_requests_rollout_fkey REFERENCES rollout (id) ON DELETE CASCADE,
    node TEXT NOT NULL,
    run TEXT NOT NULL,
    -- Its number. 0: requests that no instance could be given to.
    release BIGINT NOT NULL,
    first_totals TEXT NOT NULL,
    newest_totals TEXT NOT NULL,
    CONSTRAINT rollout_requests_pkey PRIMARY KEY (rollout, node, run, release)
);
