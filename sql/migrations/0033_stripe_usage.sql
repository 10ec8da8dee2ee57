-- Usage, as it is reported to Stripe's meters. `docs/billing.md` explains it.
--
-- What an account was charged since reporting began is a sum of `usage_daily`, which only grows. The outbox holds, for
-- each account, rows whose sum is the whole micro-dollars of that sum as it was when the last row was made. So each row is
-- the difference between the two sums, whoever has charged meanwhile, from whatever journal: no charge is left out, and
-- none is in two rows.

-- One row, made when a server with a meter first starts. Without it, nothing is reported.
CREATE TABLE stripe_reporting (
    is_only      boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    begins       date NOT NULL,        -- the first day (UTC) whose charges are reported
    closed       timestamptz NOT NULL, -- the end of the last hour that was closed
    closed_all   timestamptz NOT NULL, -- when charges of all days were last looked for
    checked      timestamptz NOT NULL, -- when the sums were last compared
    sender       varchar NOT NULL DEFAULT '', -- which process sends
    sender_until timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00' -- other processes may send after this
);

-- What is in the outbox of each account. The row is locked while a row of the outbox is made. It outlives the account, so
-- that charges that arrive after it was deleted are reported too.
CREATE TABLE stripe_usage (
    user_id          varchar COLLATE "C" PRIMARY KEY,
    customer         varchar NOT NULL,
    reported_micros  bigint NOT NULL DEFAULT 0, -- the sum of the account's rows, also of those that were deleted since
    forgotten_micros bigint NOT NULL DEFAULT 0, -- the sum of those that were deleted
    settled_day      date NOT NULL,             -- charges of earlier days are in `settled_picos`
    settled_picos    numeric(30) NOT NULL DEFAULT 0
);

-- The outbox. `id` is the event's identifier and, with a number after a reply of 500, the `Idempotency-Key`. A row is sent,
-- put aside, or else waiting. The customer, amount and time of a row never change.
CREATE TABLE stripe_outbox (
    id            varchar PRIMARY KEY DEFAULT gen_random_uuid()::varchar,
    place         bigint GENERATED ALWAYS AS IDENTITY, -- the rows of a customer are sent in this order
    user_id       varchar COLLATE "C" NOT NULL,
    customer      varchar COLLATE "C" NOT NULL,
    meter         varchar COLLATE "C" NOT NULL,
    hour          timestamptz NOT NULL, -- the hour that was closed
    amount_micros bigint NOT NULL CHECK (amount_micros BETWEEN 1 AND 999999999999999), -- a meter takes 15 digits
    used_at       timestamptz NOT NULL, -- the event's time
    attempts      integer NOT NULL DEFAULT 0,
    next_at       timestamptz NOT NULL DEFAULT now(),
    key_number    integer NOT NULL DEFAULT 0,
    unknown_since timestamptz, -- the first attempt of which it is not known what became
    sent          timestamptz,
    put_aside     timestamptz,
    alarmed       timestamptz,
    problem       varchar      -- what the last attempt failed with
);
CREATE INDEX stripe_outbox_waiting ON stripe_outbox (customer, meter, place) WHERE sent IS NULL AND put_aside IS NULL;
CREATE INDEX stripe_outbox_aside ON stripe_outbox (put_aside) WHERE put_aside IS NOT NULL;
CREATE INDEX stripe_outbox_of_customer ON stripe_outbox (customer, meter, used_at);
CREATE INDEX stripe_outbox_of_user ON stripe_outbox (user_id);
CREATE INDEX stripe_outbox_by_age ON stripe_outbox (used_at);

-- Makes rows for what accounts were charged since their last rows: for the first `at_most` accounts behind `after` that
-- used something on or after the day `since`. Returns the last of them, null if there was none, and how many rows were
-- made. Accounts without a customer wait; all they use is in the row that is made once they have one.
--
-- Charges of days that are more than a week old are added up only once a day, with `is_full`.
CREATE FUNCTION textgen_close_usage(
    after varchar, since date, of_meter varchar, of_hour timestamptz, is_full boolean, at_most integer,
    OUT last varchar, OUT made bigint
) LANGUAGE plpgsql VOLATILE AS $$
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
        SELECT c.user_id, coalesce((SELECT u.stripe_id FROM users u WHERE u.id = c.user_id COLLATE "default"),
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
        amount := least(div(total, 1000000) - usage.reported_micros, 999999999999999);
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

-- An account that is deleted leaves its customer behind, for its last charges.
CREATE FUNCTION textgen_keep_customer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stripe_usage (user_id, customer, settled_day)
    SELECT OLD.id, OLD.stripe_id, r.begins FROM stripe_reporting r
    ON CONFLICT (user_id) DO UPDATE SET customer = excluded.customer;
    RETURN NULL;
END $$;
CREATE TRIGGER users_keep_customer AFTER DELETE ON users FOR EACH ROW
WHEN (OLD.stripe_id IS NOT NULL) EXECUTE FUNCTION textgen_keep_customer();
