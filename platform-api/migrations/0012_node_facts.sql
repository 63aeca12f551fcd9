-- What constraints of an app's placement look at. `labels` is a JSON object of strings.

ALTER TABLE node ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE node ADD COLUMN os TEXT NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN arch TEXT NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN role TEXT NOT NULL DEFAULT '';
