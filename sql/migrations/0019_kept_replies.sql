-- Replies that are kept for a repetition of their request with the same `Idempotency-Key`. A row is inserted by the
-- statement that charges for it. Days (UTC) are partitions, so that old replies cost nothing to delete.
CREATE TABLE kept_replies (
    created     timestamptz NOT NULL, -- that of the charge
    user_id     varchar COLLATE "C" NOT NULL,
    key         varchar COLLATE "C" NOT NULL,
    charge_id   varchar COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,       -- SHA-256 of the request
    status      integer NOT NULL,
    headers     varchar NOT NULL,     -- `Name: value` lines
    body        bytea,                -- NULL if it was too large, or had to make room
    bytes       bigint NOT NULL       -- those of the body, also of one that is not there
) PARTITION BY RANGE (created);
-- Compressing bodies would take the database longer than writing them.
ALTER TABLE kept_replies ALTER COLUMN body SET STORAGE EXTERNAL;
-- Finds the oldest bodies of an account.
CREATE INDEX kept_replies_by_age ON kept_replies (user_id, created) WHERE body IS NOT NULL;

-- Takes what falls on a day that has no partition.
CREATE TABLE kept_replies_default PARTITION OF kept_replies DEFAULT;
CREATE UNIQUE INDEX kept_replies_default_key ON kept_replies_default (user_id, key);

-- Keys whose first request is running. `owner` is an advisory lock that its process holds for as long as it is connected.
-- The rows may be lost in a crash of the database: then a request may run twice, but it is charged once, as
-- `kept_replies` is unique.
CREATE UNLOGGED TABLE idempotency_claims (
    user_id varchar COLLATE "C" NOT NULL,
    key     varchar COLLATE "C" NOT NULL,
    owner   bigint NOT NULL,
    number  bigint NOT NULL, -- unique for the owner
    CONSTRAINT idempotency_claims_pkey PRIMARY KEY (user_id, key)
);

-- Finds the reply that is kept for a key, or claims the key. `state` is `kept`, `claimed` or `running`. Each statement of
-- the function sees what was committed before it began, so a reply that was kept before its claim was deleted is found.
CREATE FUNCTION textgen_claim_key(for_user varchar, for_key varchar, new_owner bigint, new_number bigint)
RETURNS TABLE (state text, fingerprint bytea, status integer, headers varchar, body bytea)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    old_owner bigint;
BEGIN
    RETURN QUERY SELECT 'kept', k.fingerprint, k.status, k.headers, k.body FROM kept_replies k
        WHERE k.user_id = for_user AND k.key = for_key AND k.created > now() - interval '1 day'
        ORDER BY k.created DESC LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO idempotency_claims VALUES (for_user, for_key, new_owner, new_number) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT c.owner INTO old_owner FROM idempotency_claims c
            WHERE c.user_id = for_user AND c.key = for_key FOR UPDATE;
        -- The claim was just deleted, or its process lives.
        IF old_owner IS NULL OR NOT pg_try_advisory_xact_lock(old_owner) THEN
            RETURN QUERY SELECT 'running', NULL::bytea, 0, ''::varchar, NULL::bytea;
            RETURN;
        END IF;
        UPDATE idempotency_claims c SET owner = new_owner, number = new_number
            WHERE c.user_id = for_user AND c.key = for_key;
    END IF;
    RETURN QUERY SELECT 'kept', k.fingerprint, k.status, k.headers, k.body FROM kept_replies k
        WHERE k.user_id = for_user AND k.key = for_key AND k.created > now() - interval '1 day'
        ORDER BY k.created DESC LIMIT 1;
    IF FOUND THEN
        DELETE FROM idempotency_claims c WHERE c.user_id = for_user AND c.key = for_key;
        RETURN;
    END IF;
    RETURN QUERY SELECT 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea;
END $$;

-- Makes the partitions of today and the next two days, and drops those that ended more than a day ago, unless another
-- process is doing so.
CREATE FUNCTION textgen_partition_kept_replies() RETURNS void LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day   date;
    name  text;
BEGIN
    -- "replies" in ASCII; it ends with the transaction.
    IF NOT pg_try_advisory_xact_lock(32199680874603891) THEN
        RETURN;
    END IF;
    FOR n IN 0..2 LOOP
        day := today + n;
        name := 'kept_replies_' || to_char(day, 'YYYY_MM_DD');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE kept_replies INCLUDING ALL)', name);
        EXECUTE format('CREATE UNIQUE INDEX %I ON %I (user_id, key)', name || '_key', name);
        LOCK TABLE kept_replies_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM kept_replies_default WHERE created >= %L AND created < %L RETURNING *)
            INSERT INTO %I SELECT * FROM moved', day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC', name);
        EXECUTE format('ALTER TABLE kept_replies ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    END LOOP;
    DELETE FROM kept_replies_default WHERE created < now() - interval '1 day';
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'kept_replies'::regclass AND c.relname ~ '^kept_replies_\d{4}_\d{2}_\d{2}$'
            AND to_date(right(c.relname, 10), 'YYYY_MM_DD') < today - 1
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
END $$;

SELECT textgen_partition_kept_replies();
