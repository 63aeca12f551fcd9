-- A host that joins again with the same token and the same key is the same node: the answer to its first try may have been lost.

-- The token that a node has come with last, and the SHA-256 of the key that it has shown then. NULL: it has come before this was written down.
ALTER TABLE node_identity ADD COLUMN join_token TEXT;
ALTER TABLE node_identity ADD COLUMN join_key TEXT;

-- Whether hosts that come with a token are to be resumed before anything is placed on them, and whether a node has yet to begin like that.
ALTER TABLE join_token ADD COLUMN drained BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE node_identity ADD COLUMN begins_drained BOOLEAN NOT NULL DEFAULT FALSE;
