-- What pushes may do in a namespace. One without a row is as at first.

CREATE TABLE push_policy (
    namespace TEXT NOT NULL CONSTRAINT push_policy_pkey PRIMARY KEY REFERENCES namespace (id) ON DELETE CASCADE,
    -- Whether the first push to an app that is not there makes it.
    creates_apps BOOLEAN NOT NULL,
    -- Whether builds may connect to whatever the control plane's host can.
    build_network BOOLEAN NOT NULL
);
