-- The accounts. On a database of the Python system the table is there already and is brought into this shape:
-- nothing is dropped, and every query that people ran on it goes on working.
CREATE TABLE IF NOT EXISTS users (
    id                        varchar PRIMARY KEY,
    email                     varchar NOT NULL,
    password_hash             varchar,
    created                   timestamptz NOT NULL DEFAULT now(),
    updated                   timestamptz NOT NULL DEFAULT now(),
    name                      varchar,
    profile_url               varchar,
    photo_url                 varchar,
    is_subscribed             boolean NOT NULL DEFAULT false,
    stripe_id                 varchar,
    secret                    varchar NOT NULL DEFAULT '', -- the visible prefix of the default API key
    free_credits              integer NOT NULL DEFAULT 0,
    charges_monthly           bigint  NOT NULL DEFAULT 0,  -- micro-dollars
    num_self_hosted_instances integer NOT NULL DEFAULT 0,
    cookie_user               integer,                     -- unused, kept
    access_token              varchar                      -- unused, kept
);

DO $$
BEGIN
    IF (SELECT data_type FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'users' AND column_name = 'created')
       = 'timestamp without time zone'
    THEN
        -- The Python system wrote UTC without saying so.
        ALTER TABLE users
            ALTER COLUMN created TYPE timestamptz USING created AT TIME ZONE 'UTC',
            ALTER COLUMN updated TYPE timestamptz USING updated AT TIME ZONE 'UTC';
    END IF;
    IF (SELECT data_type FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'users' AND column_name = 'charges_monthly')
       = 'integer'
    THEN
        -- It counted tenths of a cent.
        ALTER TABLE users
            ALTER COLUMN charges_monthly TYPE bigint USING coalesce(charges_monthly, 0)::bigint * 1000;
    END IF;
END $$;

UPDATE users SET
    created                   = coalesce(created, updated, now()),
    updated                   = coalesce(updated, created, now()),
    is_subscribed             = coalesce(is_subscribed, false),
    free_credits              = coalesce(free_credits, 0),
    charges_monthly           = coalesce(charges_monthly, 0),
    num_self_hosted_instances = coalesce(num_self_hosted_instances, 0)
WHERE created IS NULL OR updated IS NULL OR is_subscribed IS NULL OR free_credits IS NULL
   OR charges_monthly IS NULL OR num_self_hosted_instances IS NULL;

ALTER TABLE users
    ALTER COLUMN created SET DEFAULT now(),
    ALTER COLUMN created SET NOT NULL,
    ALTER COLUMN updated SET DEFAULT now(),
    ALTER COLUMN updated SET NOT NULL,
    ALTER COLUMN is_subscribed SET DEFAULT false,
    ALTER COLUMN is_subscribed SET NOT NULL,
    ALTER COLUMN secret SET DEFAULT '',
    ALTER COLUMN free_credits SET DEFAULT 0,
    ALTER COLUMN free_credits SET NOT NULL,
    ALTER COLUMN charges_monthly SET DEFAULT 0,
    ALTER COLUMN charges_monthly SET NOT NULL,
    ALTER COLUMN num_self_hosted_instances SET DEFAULT 0,
    ALTER COLUMN num_self_hosted_instances SET NOT NULL;

-- The Python system told "A@x" and "a@x" apart. Of such accounts one keeps the address: a subscriber before others,
-- then the oldest. The others keep all they have and get an address that says what happened.
WITH ranked AS (
    SELECT id, row_number() OVER (
        PARTITION BY lower(btrim(email)) ORDER BY is_subscribed DESC, created, id) AS place
    FROM users)
UPDATE users SET email = 'duplicate-' || lower(users.id) || '-of-' || lower(btrim(email))
FROM ranked WHERE ranked.id = users.id AND ranked.place > 1;

UPDATE users SET email = lower(btrim(email)) WHERE email <> lower(btrim(email));

CREATE UNIQUE INDEX IF NOT EXISTS users_email_unique ON users (email);
ALTER TABLE users ADD CONSTRAINT users_email_is_normal CHECK (email = lower(btrim(email)));
CREATE INDEX IF NOT EXISTS users_created ON users (created DESC, id DESC);
