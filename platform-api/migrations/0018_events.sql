-- Events are given up by age.

CREATE INDEX event_time_idx ON event (time);
