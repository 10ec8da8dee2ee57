-- A meter that was switched off for a day or more, while accounts were charged: whether that is to be reported is not known
-- until somebody says so. Meanwhile no rows are made.
ALTER TABLE stripe_reporting
    ADD COLUMN held_since timestamptz, -- until when usage was reported; NULL unless reporting is held
    ADD COLUMN held_until timestamptz; -- when a server with the meter was there again

-- What an account was charged and is not reported, in picodollars, as reporting was switched off.
ALTER TABLE stripe_usage ADD COLUMN skipped_picos numeric(30) NOT NULL DEFAULT 0;

-- Rows whose time may run out, also those that were put aside.
CREATE INDEX stripe_outbox_unsent ON stripe_outbox (used_at) WHERE sent IS NULL;

-- As before, without what is not to be reported. And the customer that an account had once is that of its usage only if the
-- account is gone: while it is there and has none, its usage waits for the next one.
CREATE OR REPLACE FUNCTION textgen_close_usage(
    after varchar, since date, of_meter varchar, of_hour timestamptz, is_full boolean, at_most integer,
    OUT last varchar, OUT made bigint
) LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
    first_day   date := (SELECT r.begins FROM stripe_reporting r);
    week_begins date := greatest((now() AT TIME ZONE 'UTC')::date - 7, first_day);
    account     record;
    usage       stripe_usage;
    settled     numeric;
    total       numeric;
    amount      bigint;
BEGIN
    made := 0;
    FOR account IN
        SELECT c.user_id, coalesce((SELECT coalesce(u.stripe_id, '') FROM users u WHERE u.id = c.user_id COLLATE "default"),
            (SELECT s.customer FROM stripe_usage s WHERE s.user_id = c.user_id)) AS customer
        FROM (SELECT DISTINCT d.user_id FROM usage_daily d
              WHERE d.day >= greatest(since, first_day) AND d.user_id > after ORDER BY d.user_id LIMIT at_most) AS c
    LOOP
        last := account.user_id;
        CONTINUE WHEN account.customer IS NULL OR account.customer = '';
        INSERT INTO stripe_usage AS s (user_id, customer, settled_day)
        VALUES (account.user_id, account.customer, first_day)
        ON CONFLICT (user_id) DO UPDATE SET customer = excluded.customer RETURNING * INTO usage;
        -- Statements after the lock see all rows that were made under it before, and charges that were committed since.
        IF is_full THEN
            SELECT coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos) FILTER (WHERE d.day < week_begins), 0),
                coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 0)
            INTO settled, total
            FROM usage_daily d WHERE d.user_id = account.user_id AND d.day >= first_day;
        ELSE
            SELECT usage.settled_picos + coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 0) INTO total
            FROM usage_daily d WHERE d.user_id = account.user_id AND d.day >= usage.settled_day;
        END IF;
        amount := least(div(total - usage.skipped_picos, 1000000) - usage.reported_micros, 999999999999999);
        IF amount > 0 THEN
            INSERT INTO stripe_outbox (user_id, customer, meter, hour, amount_micros, used_at)
            VALUES (account.user_id, account.customer, of_meter, of_hour, amount,
                least(date_trunc('second', now()), of_hour + interval '59 minutes 59 seconds'));
            made := made + 1;
        END IF;
        UPDATE stripe_usage s SET reported_micros = s.reported_micros + greatest(amount, 0),
            settled_day = CASE WHEN is_full THEN week_begins ELSE s.settled_day END,
            settled_picos = CASE WHEN is_full THEN settled ELSE s.settled_picos END
        WHERE s.user_id = account.user_id AND (amount > 0 OR is_full);
    END LOOP;
END $$;
