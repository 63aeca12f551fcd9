-- Nobody read the log of changes: watchers are told in the process, and look at the app itself.

DROP TABLE change;
