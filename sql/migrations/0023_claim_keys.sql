-- Several keys are claimed at once, in one round trip and one transaction for all requests that arrive together.
DROP FUNCTION textgen_claim_key(varchar, varchar, bigint, bigint);

-- For each of these users and keys, finds the reply that is kept for it, or claims the key: `state` is `kept`, `claimed` or
-- `running`, and `place` is the place in the arrays. These must be ordered by user and key, so that two calls never wait
-- for each other in a circle. Each statement of the function sees what was committed before it began, so a reply that
-- was kept before its claim was deleted is found. To plan them anew for each call would take longer than to run them; and
-- no reply is from the future, whose partitions need not be searched.
CREATE FUNCTION textgen_claim_keys(users varchar[], keys varchar[], new_owner bigint, numbers bigint[])
RETURNS TABLE (place bigint, state text, fingerprint bytea, status integer, headers varchar, body bytea)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    reply    record;
    wanted   record;
    existing record;
    inserted bigint;
    done     bigint[] := '{}';
BEGIN
    FOR pass IN 1..2 LOOP
        FOR reply IN
            SELECT t.place, t.user_id, t.key, k.fingerprint, k.status, k.headers, k.body
            FROM unnest(users, keys) WITH ORDINALITY AS t (user_id, key, place)
            CROSS JOIN LATERAL (
                SELECT k.fingerprint, k.status, k.headers, k.body FROM kept_replies k
                WHERE k.user_id = t.user_id AND k.key = t.key AND k.created > now() - interval '1 day'
                    AND k.created < now() + interval '1 hour'
                ORDER BY k.created DESC LIMIT 1) AS k
            WHERE t.place <> ALL (done)
        LOOP
            IF pass = 2 THEN
                DELETE FROM idempotency_claims c WHERE c.user_id = reply.user_id AND c.key = reply.key;
            END IF;
            done := done || reply.place;
            RETURN QUERY SELECT reply.place, 'kept', reply.fingerprint, reply.status, reply.headers, reply.body;
        END LOOP;
        EXIT WHEN pass = 2 OR cardinality(done) = cardinality(keys);

        INSERT INTO idempotency_claims (user_id, key, owner, number)
            SELECT t.user_id, t.key, new_owner, t.number
            FROM unnest(users, keys, numbers) WITH ORDINALITY AS t (user_id, key, number, place)
            WHERE t.place <> ALL (done) ORDER BY t.place
            ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        CONTINUE WHEN inserted + cardinality(done) = cardinality(keys);

        FOR wanted IN
            SELECT t.* FROM unnest(users, keys, numbers) WITH ORDINALITY AS t (user_id, key, number, place)
            WHERE t.place <> ALL (done) ORDER BY t.place
        LOOP
            SELECT c.owner, c.number INTO existing FROM idempotency_claims c
                WHERE c.user_id = wanted.user_id AND c.key = wanted.key FOR UPDATE;
            CONTINUE WHEN existing.owner = new_owner AND existing.number = wanted.number;
            -- The claim was just deleted, or its process lives.
            IF NOT FOUND OR NOT pg_try_advisory_xact_lock(existing.owner) THEN
                done := done || wanted.place;
                RETURN QUERY SELECT wanted.place, 'running', NULL::bytea, 0, ''::varchar, NULL::bytea;
            ELSE
                UPDATE idempotency_claims c SET owner = new_owner, number = wanted.number
                    WHERE c.user_id = wanted.user_id AND c.key = wanted.key;
            END IF;
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT t.place, 'claimed', NULL::bytea, 0, ''::varchar, NULL::bytea
        FROM generate_series(1, cardinality(keys)::bigint) AS t (place) WHERE t.place <> ALL (done);
END $$;

-- The oldest bodies of an account are looked for seldom, among all of its rows, and each charge with a key paid for this.
DROP INDEX kept_replies_by_age;
