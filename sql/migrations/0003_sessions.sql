-- A browser that is signed in. The cookie holds the token; here is only its SHA-256 digest.
CREATE TABLE sessions (
    id         varchar PRIMARY KEY,
    user_id    varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    digest     bytea NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    expires    timestamptz NOT NULL,
    renewed    timestamptz NOT NULL DEFAULT now(), -- when the browser was last given the cookie
    address    varchar NOT NULL DEFAULT '',
    user_agent varchar NOT NULL DEFAULT '',
    CONSTRAINT sessions_digest_key UNIQUE (digest)
);
CREATE INDEX sessions_of_user ON sessions (user_id, created DESC);
CREATE INDEX sessions_expires ON sessions (expires);
