-- The total of a day says how many of its charges rest on an estimate.
ALTER TABLE usage_days ADD COLUMN estimated bigint NOT NULL DEFAULT 0;

-- As before, with that number.
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
        INSERT INTO usage_days (day, events, estimated, cost_micros, people, computed, took)
        SELECT of_day, coalesce(sum(events), 0), coalesce(sum(estimated), 0),
            coalesce(sum(cost_micros) + div(sum(cost_picos), 1000000), 0), count(*), sum_began, clock_timestamp() - sum_began
        FROM (SELECT sum(d.events) AS events, sum(d.estimated) AS estimated, sum(d.cost_micros) AS cost_micros,
                sum(d.cost_picos) AS cost_picos
              FROM usage_daily d
              WHERE d.day = of_day GROUP BY d.user_id) AS of_people
        ON CONFLICT (day) DO UPDATE SET events = excluded.events, estimated = excluded.estimated,
            cost_micros = excluded.cost_micros,
            people = excluded.people, computed = excluded.computed, took = excluded.took;
    END LOOP;
    RETURN CASE WHEN early > interval '0' THEN early WHEN cardinality(closed_days) > 0 THEN interval '0' END;
END $$;

-- Servers compute them anew, the newest first.
DELETE FROM usage_days;
