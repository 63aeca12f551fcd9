-- Apps whose open requests decide how many instances they have.

-- The number that they have decided on last; NULL while they have decided on none. It counts where the release has a range.
ALTER TABLE app ADD COLUMN autoscaled_to BIGINT;

-- The range of the release; NULL: it has a number.
ALTER TABLE release_demand ADD COLUMN replicas_min BIGINT;
ALTER TABLE release_demand ADD COLUMN replicas_max BIGINT;
