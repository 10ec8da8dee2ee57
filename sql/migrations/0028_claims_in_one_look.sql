-- As before, but keys are claimed by one statement, and a large body of a kept reply is not returned, only its size: a call
-- claims the keys of many requests, which would wait for it. No process takes over a claim of its own.
DROP FUNCTION textgen_claim_keys(varchar[], varchar[], bigint, bigint[]);

-- For each of these users and keys, finds the reply that is kept for it, or claims the key: `state` is `kept` or `claimed`,
-- and keys of requests that are running are left out. `place` is the place in the arrays. These must be ordered by user
-- and key, so that two calls never wait for each other in a circle. To plan the statements anew for each call would take
-- longer than to run them; and no reply is from the future, whose partitions need not be searched.
--
-- The first statement looks for replies and claims keys by one snapshot, which is enough if the call takes less time than
-- a claim is left in the table after its reply was kept. If not, the caller must call again: keys that are claimed already
-- are looked for once more, by a later snapshot.
CREATE FUNCTION textgen_claim_keys(users varchar[], keys varchar[], new_owner bigint, numbers bigint[])
RETURNS TABLE (place bigint, state text, fingerprint bytea, status integer, headers varchar, body bytea, bytes bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    answered bigint;
    wanted   record;
    existing record;
BEGIN
    RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT * FROM unnest(users, keys, numbers) WITH ORDINALITY AS t (user_id, key, number, place)),
        kept AS MATERIALIZED (
            SELECT t.place, k.* FROM given t
            CROSS JOIN LATERAL (
                SELECT k.fingerprint, k.status, k.headers,
                    CASE WHEN octet_length(k.body) <= 16384 THEN k.body END AS body,
                    octet_length(k.body)::bigint AS bytes FROM kept_replies k
                WHERE k.user_id = t.user_id AND k.key = t.key AND k.created > now() - interval '1 day'
                    AND k.created < now() + interval '1 hour'
                ORDER BY k.created DESC LIMIT 1) AS k),
        claimed AS (
            INSERT INTO idempotency_claims AS c (user_id, key, owner, number)
            SELECT t.user_id, t.key, new_owner, t.number FROM given t
            WHERE t.place NOT IN (SELECT k.place FROM kept k)
            ON CONFLICT DO NOTHING RETURNING c.number)
        SELECT t.place, 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea, NULL::bigint FROM given t
            WHERE t.number IN (SELECT c.number FROM claimed c)
        UNION ALL
        SELECT k.place, 'kept', k.fingerprint, k.status, k.headers, k.body, k.bytes FROM kept k;
    GET DIAGNOSTICS answered = ROW_COUNT;
    IF answered = cardinality(keys) THEN
        RETURN;
    END IF;

    -- Keys that have a claim: it is this one, from an earlier call, or another.
    FOR wanted IN
        SELECT t.* FROM unnest(users, keys, numbers) WITH ORDINALITY AS t (user_id, key, number, place) ORDER BY t.place
    LOOP
        SELECT c.owner, c.number INTO existing FROM idempotency_claims c
            WHERE c.user_id = wanted.user_id AND c.key = wanted.key FOR UPDATE;
        IF NOT FOUND THEN
            -- A reply is kept, which the first statement has returned, or the claim was just deleted.
            CONTINUE;
        END IF;
        IF existing.owner <> new_owner OR existing.number <> wanted.number THEN
            -- The claim of a process that does not hold its lock any more is taken over.
            CONTINUE WHEN existing.owner = new_owner OR NOT pg_try_advisory_xact_lock(existing.owner);
            UPDATE idempotency_claims c SET owner = new_owner, number = wanted.number
                WHERE c.user_id = wanted.user_id AND c.key = wanted.key;
        END IF;
        RETURN QUERY SELECT wanted.place, 'kept', k.fingerprint, k.status, k.headers,
            CASE WHEN octet_length(k.body) <= 16384 THEN k.body END, octet_length(k.body)::bigint FROM kept_replies k
            WHERE k.user_id = wanted.user_id AND k.key = wanted.key AND k.created > now() - interval '1 day'
                AND k.created < now() + interval '1 hour'
            ORDER BY k.created DESC LIMIT 1;
        IF FOUND THEN
            DELETE FROM idempotency_claims c WHERE c.user_id = wanted.user_id AND c.key = wanted.key;
        ELSE
            RETURN QUERY SELECT wanted.place, 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea, NULL::bigint;
        END IF;
    END LOOP;
END $$;
