-- What images a node's engine runs, as JSON. NULL: it runs no containers.

ALTER TABLE node ADD COLUMN containers TEXT;
