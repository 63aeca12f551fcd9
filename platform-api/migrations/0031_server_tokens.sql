-- Each of several servers has a first token of its own, in its own data directory. Empty: the only server's.

ALTER TABLE token ADD COLUMN server TEXT NOT NULL DEFAULT '';
