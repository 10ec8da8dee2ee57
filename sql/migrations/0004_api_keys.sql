-- A program's secret. It is shown once; here are the part that may be seen and the SHA-256 digest.
CREATE TABLE api_keys (
    id          varchar PRIMARY KEY,
    user_id     varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name        varchar NOT NULL,
    prefix      varchar NOT NULL,
    digest      bytea NOT NULL,
    is_default  boolean NOT NULL DEFAULT false,  -- the one whose prefix stands in users.secret
    created     timestamptz NOT NULL DEFAULT now(),
    last_used   timestamptz,
    expires     timestamptz,
    revoked     timestamptz,
    replaced_by varchar,                         -- the key that a rotation made of it
    CONSTRAINT api_keys_digest_key UNIQUE (digest)
);
CREATE INDEX api_keys_of_user ON api_keys (user_id, created DESC);

-- The secrets of the Python system go on working: each becomes its user's default key. Where two users had the same
-- one, that system answered with either; the older account keeps it.
INSERT INTO api_keys (id, user_id, name, prefix, digest, is_default, created)
SELECT 'key_' || replace(gen_random_uuid()::text, '-', ''), id, 'default',
       CASE WHEN length(secret) >= 20 THEN left(secret, 6) ELSE '' END || '…',
       sha256(convert_to(secret, 'UTF8')), true, created
FROM users WHERE secret <> ''
ORDER BY created, id
ON CONFLICT (digest) DO NOTHING;

UPDATE users SET secret = coalesce(
    (SELECT prefix FROM api_keys WHERE api_keys.user_id = users.id AND is_default), '')
WHERE secret <> '';
