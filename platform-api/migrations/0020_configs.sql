-- Configs: named values that may be read. They are kept as secrets are, and a name is of one kind.

ALTER TABLE secret_version ADD COLUMN readable BOOLEAN NOT NULL DEFAULT FALSE;
