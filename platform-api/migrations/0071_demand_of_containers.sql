-- What containers may use counts for quotas, and not only what they reserve. Who looks at a namespace next counts them anew.

DELETE FROM release_demand WHERE release IN (
    SELECT release.id FROM release JOIN artifact ON artifact.digest = release.artifact
    WHERE artifact.world IN ('"container"', '"http-container"')
);
