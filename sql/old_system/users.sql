LOCK TABLE users IN ACCESS EXCLUSIVE MODE;

SELECT textgen_old_begin(count(*)) FROM users;

ALTER TABLE users
    ALTER COLUMN created DROP DEFAULT,
    ALTER COLUMN updated DROP DEFAULT,
    ALTER COLUMN is_subscribed DROP DEFAULT,
    ALTER COLUMN secret DROP DEFAULT,
    ALTER COLUMN free_credits DROP DEFAULT,
    ALTER COLUMN charges_monthly DROP DEFAULT,
    ALTER COLUMN num_self_hosted_instances DROP DEFAULT;

ALTER TABLE users
    ALTER COLUMN email TYPE varchar, -- of any length
    ALTER COLUMN email SET NOT NULL,
    ALTER COLUMN created TYPE timestamptz
        USING coalesce(textgen_old_time(created), textgen_old_time(updated), now()),
    ALTER COLUMN updated TYPE timestamptz
        USING coalesce(textgen_old_time(updated), textgen_old_time(created), now()),
    ALTER COLUMN is_subscribed TYPE boolean USING coalesce(is_subscribed, false),
    -- An account without one has no key.
    ALTER COLUMN secret TYPE varchar USING coalesce(secret, ''),
    ALTER COLUMN secret SET NOT NULL,
    ALTER COLUMN free_credits TYPE integer USING coalesce(free_credits, 0),
    -- It counted tenths of a cent.
    ALTER COLUMN charges_monthly TYPE bigint
        USING CASE WHEN textgen_old_row() THEN coalesce(charges_monthly, 0)::bigint * 1000 END,
    ALTER COLUMN num_self_hosted_instances TYPE integer USING coalesce(num_self_hosted_instances, 0);

-- That system told "A@x" and "a@x" apart, and kept spaces and tabs. Of such accounts one keeps the address: a subscriber
-- before others, then the oldest. The others keep all they have and get an address that says what happened.
DO $$
DECLARE
    changed bigint;
BEGIN
    WITH addresses AS (
        SELECT id, textgen_old_address(email) AS address,
            row_number() OVER (PARTITION BY textgen_old_address(email) ORDER BY is_subscribed DESC, created, id) AS place,
            row_number() OVER (PARTITION BY textgen_old_address(email), lower(id) ORDER BY id) AS same_id
        FROM users)
    UPDATE users SET email = 'duplicate-' || lower(users.id) || CASE WHEN a.same_id > 1 THEN '-' || a.same_id ELSE '' END
        || '-of-' || a.address
    FROM addresses a WHERE a.id = users.id AND a.place > 1;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed > 0 THEN
        RAISE NOTICE '% accounts had the address of another one and got one that begins with "duplicate-"', changed
            USING ERRCODE = 'TG000';
    END IF;
    UPDATE users SET email = textgen_old_address(email) WHERE email <> textgen_old_address(email);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RAISE NOTICE '% addresses were put into small letters without white space around them', changed
        USING ERRCODE = 'TG000';
END $$;
