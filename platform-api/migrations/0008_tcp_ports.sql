-- Which app has which public port. A port belongs to one app of all namespaces.

CREATE TABLE tcp_port (
    port BIGINT NOT NULL CONSTRAINT tcp_port_pkey PRIMARY KEY,
    app TEXT NOT NULL CONSTRAINT tcp_port_app_fkey REFERENCES app (id) ON DELETE CASCADE
);

CREATE INDEX tcp_port_app_idx ON tcp_port (app);
