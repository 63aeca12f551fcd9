-- Apps that run on every node that may have them.

-- Which node each slot is for, and for which release that was settled, as JSON. NULL: the app has a number of instances.
ALTER TABLE app ADD COLUMN places TEXT;

-- On how many nodes the release could run when it was made; NULL: it has a number, or a range.
ALTER TABLE release_demand ADD COLUMN nodes BIGINT;
