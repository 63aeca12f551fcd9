-- What a join token makes of a host, for placement, and what it has made of a node. NULL: a worker.

ALTER TABLE join_token ADD COLUMN role TEXT;
ALTER TABLE node_identity ADD COLUMN role TEXT;
