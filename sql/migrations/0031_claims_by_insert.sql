-- Keys are claimed as before, but one for which nothing is known, as most are, costs less: a plain INSERT claims it. The
-- function has a new name, since processes of the release before go on calling the old one while this one is installed.

-- For each of these users and keys, finds the reply that is kept for it, or claims the key: `state` is `kept` or `claimed`,
-- and keys of requests that are running are left out. `number` is that of the arrays. These must be ordered by user and
-- key, so that two calls never wait for each other in a circle. To plan the statements anew for each call would take
-- longer than to run them; and no reply is from the future, whose partitions need not be searched.
--
-- The first statement looks for replies and claims keys by one snapshot, which is enough if the call takes less time than
-- a claim is left in the table after its reply was kept. If not, the caller must call again: keys that are claimed already
-- are looked for once more, by a later snapshot.
--
-- A process lives as long as any of its connections shares the advisory lock `new_owner`: the one that listens for
-- notifications, and each that has claimed keys. Claims of a dead one are taken over, but not right after a restart of
-- the server, when the living have yet to connect again.
CREATE FUNCTION textgen_claim(users varchar[], keys varchar[], new_owner bigint, numbers bigint[])
RETURNS TABLE (number bigint, state text, fingerprint bytea, status integer, headers varchar, body bytea, bytes bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    claimed  bigint[];
    wanted   record;
    existing record;
    is_own   boolean;
    is_free  boolean;
BEGIN
    IF current_setting('textgen.present', true) IS DISTINCT FROM new_owner::text THEN
        PERFORM pg_advisory_lock_shared(new_owner);
        PERFORM set_config('textgen.present', new_owner::text, false);
    END IF;
    WITH inserted AS (
        INSERT INTO idempotency_claims AS c (user_id, key, owner, number)
        SELECT t.user_id, t.key, new_owner, t.number
        FROM (SELECT unnest(users) AS user_id, unnest(keys) AS key, unnest(numbers) AS number) AS t
        WHERE NOT EXISTS (
            SELECT FROM kept_replies k
            WHERE k.user_id = t.user_id AND k.key = t.key AND k.created > now() - interval '1 day'
                AND k.created < now() + interval '1 hour')
        ON CONFLICT DO NOTHING RETURNING c.number)
    SELECT coalesce(array_agg(i.number), '{}') INTO claimed FROM inserted i;
    RETURN QUERY SELECT unnest(claimed), 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea, NULL::bigint;
    IF cardinality(claimed) = cardinality(keys) THEN
        RETURN;
    END IF;

    -- For the others a reply is kept, or they have a claim: it is this one, from an earlier call, or another.
    FOR wanted IN
        SELECT t.* FROM unnest(users, keys, numbers) WITH ORDINALITY AS t (user_id, key, number, place)
        WHERE t.number <> ALL (claimed) ORDER BY t.place
    LOOP
        SELECT c.owner, c.number INTO existing FROM idempotency_claims c
            WHERE c.user_id = wanted.user_id AND c.key = wanted.key FOR UPDATE;
        is_own := FOUND AND existing.owner = new_owner AND existing.number = wanted.number;
        is_free := is_own OR (FOUND AND existing.owner <> new_owner
            AND pg_postmaster_start_time() < now() - interval '2 seconds' AND pg_try_advisory_xact_lock(existing.owner));
        RETURN QUERY SELECT wanted.number, 'kept', k.fingerprint, k.status, k.headers,
            CASE WHEN octet_length(k.body) <= 16384 THEN k.body END, octet_length(k.body)::bigint FROM kept_replies k
            WHERE k.user_id = wanted.user_id AND k.key = wanted.key AND k.created > now() - interval '1 day'
                AND k.created < now() + interval '1 hour'
            ORDER BY k.created DESC LIMIT 1;
        IF FOUND THEN
            DELETE FROM idempotency_claims c WHERE is_free AND c.user_id = wanted.user_id AND c.key = wanted.key;
        ELSIF is_free THEN
            UPDATE idempotency_claims c SET owner = new_owner, number = wanted.number
                WHERE NOT is_own AND c.user_id = wanted.user_id AND c.key = wanted.key;
            RETURN QUERY SELECT wanted.number, 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea, NULL::bigint;
        END IF;
    END LOOP;
END $$;
