-- What a charge costs is exact: micro-dollars, and beside them what is left of one, in picodollars (millionths of a
-- micro-dollar). Sums carry, so that they are exact as well: a million charges of 0.4 micro-dollars are 0.40 US$. What was
-- charged before was rounded to whole micro-dollars, and stays so.
--
-- New units: input that the provider had cached, input that it wrote to its cache, pictures. Prompt tokens are those that
-- are neither. `estimated` marks charges that rest on an estimate, since the provider gave no numbers.

ALTER TABLE usage_events
    ADD COLUMN cached_input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN cache_write_tokens  bigint NOT NULL DEFAULT 0,
    ADD COLUMN images              bigint NOT NULL DEFAULT 0,
    ADD COLUMN cost_picos          bigint NOT NULL DEFAULT 0, -- 0 to 999999
    ADD COLUMN estimated           boolean NOT NULL DEFAULT false;

ALTER TABLE usage_daily
    ADD COLUMN cached_input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN cache_write_tokens  bigint NOT NULL DEFAULT 0,
    ADD COLUMN images              bigint NOT NULL DEFAULT 0,
    ADD COLUMN cost_picos          bigint NOT NULL DEFAULT 0, -- 0 to 999999
    ADD COLUMN estimated           bigint NOT NULL DEFAULT 0; -- how many of the events rest on an estimate

-- What is left of a micro-dollar of `charges_monthly`, 0 to 999999.
ALTER TABLE users ADD COLUMN charges_picos bigint NOT NULL DEFAULT 0;

-- Prices hold from a time on; the newest that is not in the future is the one that counts. What was charged before is
-- never computed anew.
ALTER TABLE prices
    ADD COLUMN valid_from timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',
    ADD COLUMN cached_input_per_million bigint CHECK (cached_input_per_million BETWEEN 0 AND 1000000000000),
    ADD COLUMN cache_write_per_million  bigint CHECK (cache_write_per_million BETWEEN 0 AND 1000000000000),
    ADD COLUMN per_image                bigint NOT NULL DEFAULT 0 CHECK (per_image BETWEEN 0 AND 1000000000000),
    DROP CONSTRAINT prices_pkey,
    ADD CONSTRAINT prices_pkey PRIMARY KEY (model, valid_from);
UPDATE prices SET cached_input_per_million = prompt_per_million, cache_write_per_million = prompt_per_million;
ALTER TABLE prices
    ALTER COLUMN cached_input_per_million SET NOT NULL,
    ALTER COLUMN cached_input_per_million SET DEFAULT 0,
    ALTER COLUMN cache_write_per_million SET NOT NULL,
    ALTER COLUMN cache_write_per_million SET DEFAULT 0;
ALTER TABLE prices ALTER COLUMN valid_from SET DEFAULT now();

-- As before, with the exact cost. The picodollars of all rows of a day make up whole micro-dollars, but for the last one.
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
        INSERT INTO usage_days (day, events, cost_micros, people, computed, took)
        SELECT of_day, coalesce(sum(events), 0), coalesce(sum(cost_micros) + div(sum(cost_picos), 1000000), 0), count(*), sum_began,
            clock_timestamp() - sum_began
        FROM (SELECT sum(d.events) AS events, sum(d.cost_micros) AS cost_micros, sum(d.cost_picos) AS cost_picos
              FROM usage_daily d
              WHERE d.day = of_day GROUP BY d.user_id) AS of_people
        ON CONFLICT (day) DO UPDATE SET events = excluded.events, cost_micros = excluded.cost_micros,
            people = excluded.people, computed = excluded.computed, took = excluded.took;
    END LOOP;
    RETURN CASE WHEN early > interval '0' THEN early WHEN cardinality(closed_days) > 0 THEN interval '0' END;
END $$;
