-- Stripe invoices usage only if a subscription is there at its time. An account gets its customer before it pays anything, so
-- usage waits not only for the customer, but for a subscription.

-- Whether Stripe makes invoices for a subscription in this state.
CREATE FUNCTION textgen_subscription_is_invoiced(state varchar) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('active', 'trialing', 'past_due', 'unpaid')
$$;

-- Since when it is in such a state, as far as we know; NULL if it is not, and for those of before this column.
ALTER TABLE stripe_subscriptions ADD COLUMN invoiced_since timestamptz;

CREATE FUNCTION textgen_note_invoiced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT textgen_subscription_is_invoiced(NEW.state) THEN
        NEW.invoiced_since := NULL;
    ELSIF TG_OP = 'INSERT' THEN
        NEW.invoiced_since := now();
    ELSIF NOT textgen_subscription_is_invoiced(OLD.state) THEN
        NEW.invoiced_since := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER stripe_subscriptions_invoiced BEFORE INSERT OR UPDATE OF state ON stripe_subscriptions FOR EACH ROW
EXECUTE FUNCTION textgen_note_invoiced();

-- The customer to whom an account's usage is reported; empty while it waits. That of a deleted account is the one it had.
CREATE FUNCTION textgen_usage_customer(of_user varchar) RETURNS varchar LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT CASE WHEN EXISTS (SELECT FROM stripe_subscriptions s
                                  WHERE s.user_id = u.id AND textgen_subscription_is_invoiced(s.state))
                THEN coalesce(u.stripe_id, '') ELSE '' END
         FROM users u WHERE u.id = of_user COLLATE "default"),
        (SELECT s.customer FROM stripe_usage s WHERE s.user_id = of_user COLLATE "C"),
        '')
$$;

-- What textgen_close_usage did, for accounts with a subscription. A row's time is not before the subscription was noted, so
-- that what has waited is in its first period. Processes of before call the other one.
CREATE FUNCTION textgen_close_subscribed_usage(
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
        SELECT c.user_id, textgen_usage_customer(c.user_id) AS customer,
            (SELECT date_trunc('second', min(s.invoiced_since)) FROM stripe_subscriptions s
             WHERE s.user_id = c.user_id COLLATE "default") AS invoiced_since
        FROM (SELECT DISTINCT d.user_id FROM usage_daily d
              WHERE d.day >= greatest(since, first_day) AND d.user_id > after ORDER BY d.user_id LIMIT at_most) AS c
    LOOP
        last := account.user_id;
        CONTINUE WHEN account.customer = '';
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
            VALUES (account.user_id, account.customer, of_meter, of_hour, amount, greatest(account.invoiced_since,
                least(date_trunc('second', now()), of_hour + interval '59 minutes 59 seconds')));
            made := made + 1;
        END IF;
        UPDATE stripe_usage s SET reported_micros = s.reported_micros + greatest(amount, 0),
            settled_day = CASE WHEN is_full THEN week_begins ELSE s.settled_day END,
            settled_picos = CASE WHEN is_full THEN settled ELSE s.settled_picos END
        WHERE s.user_id = account.user_id AND (amount > 0 OR is_full);
    END LOOP;
END $$;
