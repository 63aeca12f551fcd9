-- Which process of a node's worker has registered last, as JSON: what an earlier one has sent is refused.

ALTER TABLE node ADD COLUMN incarnation TEXT NOT NULL DEFAULT '{"number":0,"process":"00000000-0000-0000-0000-000000000000","home":""}';
