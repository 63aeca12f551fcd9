-- What was refused is counted in its namespace's share like everything else, so nobody looks for it by its outcome any more.
DROP INDEX audit_outcome_idx;
