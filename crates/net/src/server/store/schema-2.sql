-- Version 2: adapters that an operator has uploaded, for sessions to start from.

CREATE TABLE library (
    name      TEXT PRIMARY KEY,
    adapter   TEXT NOT NULL,
    archive   TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    -- Names and shapes, in the order of the archive: JSON.
    schema    TEXT NOT NULL,
    uploaded  INTEGER NOT NULL
) STRICT;
