-- An entry counts 256 octets and the name of its bucket beside its key and its value: so much more it takes of the disk, and without that a
-- namespace of tiny entries took a hundred times what it had. One that has more than it may, counted like this, keeps what it has.

DELETE FROM kv_usage;

INSERT INTO kv_usage (namespace, bytes)
SELECT namespace, SUM(256 + octet_length(bucket) + octet_length(key) + octet_length(value)) FROM kv_entry GROUP BY namespace;
