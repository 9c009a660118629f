-- Version 1 of the server's database. Times are milliseconds since 1970; hashes are lower-case hexadecimal SHA-256.

CREATE TABLE sites (
    name      TEXT PRIMARY KEY,
    created   INTEGER NOT NULL,
    revoked   INTEGER
) STRICT;

-- Tokens are kept as their hashes: whoever reads the database can be nobody.
CREATE TABLE credentials (
    hash      TEXT PRIMARY KEY,
    kind      TEXT NOT NULL CHECK (kind IN ('enrolment', 'access', 'refresh')),
    role      TEXT NOT NULL CHECK (role IN ('site', 'operator', 'viewer')),
    name      TEXT NOT NULL,
    expires   INTEGER NOT NULL
) STRICT;
CREATE INDEX credentials_of ON credentials (name);

CREATE TABLE sessions (
    id        TEXT PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    spec      TEXT NOT NULL,
    status    TEXT NOT NULL CHECK (status IN ('gathering', 'running', 'finished', 'stopped')),
    -- The round machine, as it was after the last change; absent while gathering.
    machine   TEXT,
    -- Raised by one with every change: a writer that has seen another version changes nothing.
    version   INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    ended     INTEGER
) STRICT;

CREATE TABLE attendance (
    session   TEXT NOT NULL REFERENCES sessions (id),
    site      TEXT NOT NULL,
    first     INTEGER NOT NULL,
    PRIMARY KEY (session, site)
) STRICT;

-- Round 0 is the seed.
CREATE TABLE models (
    session   TEXT NOT NULL REFERENCES sessions (id),
    round     INTEGER NOT NULL,
    adapter   TEXT NOT NULL,
    archive   TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    PRIMARY KEY (session, round)
) STRICT;

CREATE TABLE rounds (
    session   TEXT NOT NULL REFERENCES sessions (id),
    round     INTEGER NOT NULL,
    record    TEXT NOT NULL,
    ended     INTEGER NOT NULL,
    PRIMARY KEY (session, round)
) STRICT;

CREATE TABLE updates (
    session   TEXT NOT NULL REFERENCES sessions (id),
    round     INTEGER NOT NULL,
    site      TEXT NOT NULL,
    archive   TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    accepted  INTEGER NOT NULL,
    PRIMARY KEY (session, round, site)
) STRICT;

CREATE TABLE scores (
    session   TEXT NOT NULL REFERENCES sessions (id),
    site      TEXT NOT NULL,
    model     TEXT NOT NULL,
    metric    TEXT NOT NULL,
    value     REAL NOT NULL,
    rows      INTEGER NOT NULL,
    PRIMARY KEY (session, site, model, metric)
) STRICT;

CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    detail    TEXT NOT NULL,
    hash      TEXT NOT NULL
) STRICT;
