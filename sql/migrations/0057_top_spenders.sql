-- Of each day, the accounts and the keys that were charged most, and the models: computed with the day's total, so that lists of
-- any days are quick however many accounts there are.
CREATE TABLE usage_top (
    day         date NOT NULL,
    kind        varchar COLLATE "C" NOT NULL CHECK (kind IN ('user', 'key', 'model')),
    user_id     varchar COLLATE "C" NOT NULL, -- empty for a model
    name        varchar COLLATE "C" NOT NULL, -- a key's id, empty for none; a model's name
    events      bigint NOT NULL,
    cost_micros bigint NOT NULL,
    cost_picos  bigint NOT NULL,
    CONSTRAINT usage_top_pkey PRIMARY KEY (kind, day, user_id, name)
);

-- As before, and the day's largest spenders with its total.
CREATE OR REPLACE FUNCTION textgen_total_days() RETURNS interval LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    began       timestamptz := clock_timestamp();
    today       date := (began AT TIME ZONE 'UTC')::date;
    first_open  date := (began AT TIME ZONE 'UTC' - interval '1 hour')::date - 1;
    early       interval; -- how long until those of open days may be computed
    closed_days date[];
    days        date[];
    of_day      date;
    sum_began   timestamptz;
BEGIN
    -- "usedays" in ASCII; it ends with the transaction.
    IF NOT pg_try_advisory_xact_lock(33059451588147571) THEN
        RETURN interval '2 seconds';
    END IF;
    SELECT min(computed) + greatest(interval '2 seconds', 50 * sum(took)) - began INTO early
    FROM usage_days WHERE day >= first_open AND computed <= began; -- or else a clock was set back
    closed_days := ARRAY(
        SELECT first_open - n FROM generate_series(1, first_open - (SELECT min(day) FROM usage_daily)) AS n
        LEFT JOIN usage_days t ON t.day = first_open - n
        WHERE t.day IS NULL OR t.computed < (t.day + 2 + interval '1 hour') AT TIME ZONE 'UTC'
        ORDER BY n);
    IF early > interval '0' THEN
        IF cardinality(closed_days) = 0 THEN
            RETURN early;
        END IF;
        -- Nothing was written yet: who waits for a lock while holding rows that others wait for may wait for ever.
        LOCK TABLE usage_days IN SHARE ROW EXCLUSIVE MODE;
        days := closed_days;
    ELSE
        days := ARRAY(SELECT today - n FROM generate_series(0, today - first_open) AS n);
    END IF;
    began := clock_timestamp();
    FOREACH of_day IN ARRAY days LOOP
        sum_began := clock_timestamp();
        IF of_day < first_open AND sum_began > began + interval '1 second' THEN
            RETURN interval '0';
        END IF;
        DELETE FROM usage_top WHERE kind IN ('user', 'key', 'model') AND day = of_day;
        -- One look at the day's rows for all of it.
        WITH sums AS MATERIALIZED (
            SELECT CASE WHEN GROUPING(d.user_id) = 1 THEN 'model' WHEN GROUPING(d.key_id) = 1 THEN 'user' ELSE 'key' END
                    AS kind,
                coalesce(d.user_id, '') AS user_id, coalesce(d.key_id, d.model, '') AS name,
                sum(d.events) AS events, sum(d.estimated) AS estimated, sum(d.cost_micros) AS cost_micros,
                sum(d.cost_picos) AS cost_picos
            FROM usage_daily d WHERE d.day = of_day
            GROUP BY GROUPING SETS ((d.user_id), (d.user_id, d.key_id), (d.model))),
        top AS (
            INSERT INTO usage_top (day, kind, user_id, name, events, cost_micros, cost_picos)
            SELECT of_day, r.kind, r.user_id, r.name, r.events, r.cost_micros, r.cost_picos
            FROM (
                (SELECT * FROM sums WHERE kind = 'user' ORDER BY cost_micros DESC, user_id LIMIT 1000)
                UNION ALL (SELECT * FROM sums WHERE kind = 'key' ORDER BY cost_micros DESC, user_id, name LIMIT 1000)
                UNION ALL (SELECT * FROM sums WHERE kind = 'model' ORDER BY cost_micros DESC, name LIMIT 1000)) AS r)
        INSERT INTO usage_days (day, events, estimated, cost_micros, people, computed, took)
        SELECT of_day, coalesce(sum(events), 0), coalesce(sum(estimated), 0),
            coalesce(sum(cost_micros) + div(sum(cost_picos), 1000000), 0), count(*), sum_began, clock_timestamp() - sum_began
        FROM sums WHERE kind = 'user'
        ON CONFLICT (day) DO UPDATE SET events = excluded.events, estimated = excluded.estimated,
            cost_micros = excluded.cost_micros,
            people = excluded.people, computed = excluded.computed, took = excluded.took;
        UPDATE usage_days SET took = clock_timestamp() - sum_began WHERE day = of_day;
    END LOOP;
    RETURN CASE WHEN early > interval '0' THEN early WHEN cardinality(closed_days) > 0 THEN interval '0' END;
END $$;

-- Servers compute them anew, the newest first.
DELETE FROM usage_days;

-- Filters of the audit log and of the list of accounts.
CREATE INDEX audit_of_actor ON audit (actor, id DESC);
CREATE INDEX audit_of_action ON audit (action, id DESC);
CREATE INDEX users_admins ON users (created DESC, id DESC) WHERE is_admin;
CREATE INDEX users_suspended ON users (created DESC, id DESC) WHERE suspended IS NOT NULL;
CREATE INDEX users_subscribed ON users (created DESC, id DESC) WHERE is_subscribed;
