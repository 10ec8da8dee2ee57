-- Credits: what accounts were given or have bought, and what they lost again. The sum of them is the limit of a budget,
-- the account's balance: docs/limits.md explains it. Amounts are whole picodollars.

-- A row is made once and stays, also when the account is deleted. Only `left_picos` changes: what is left of a credit, as
-- far as it was counted (credit_balances).
CREATE TABLE credit_entries (
    id              varchar COLLATE "C" NOT NULL,
    user_id         varchar NOT NULL,
    kind            varchar NOT NULL CHECK (kind IN ('grant', 'purchase', 'correction', 'expiry')),
    amount_picos    numeric(30) NOT NULL, -- below zero for what is taken away
    asked_picos     numeric(30) NOT NULL, -- a correction takes no more than there is
    left_picos      numeric(30) NOT NULL CHECK (left_picos BETWEEN 0 AND greatest(amount_picos, 0)),
    expires         timestamptz,
    expired_id      varchar, -- of an expiry: the credit
    reason          varchar NOT NULL,
    created         timestamptz NOT NULL,
    CONSTRAINT credit_entries_pkey PRIMARY KEY (id)
);
CREATE INDEX credit_entries_of_user ON credit_entries (user_id, created DESC, id DESC);
CREATE INDEX credit_entries_left ON credit_entries (user_id) WHERE left_picos > 0;

-- The budgets that are balances.
CREATE TABLE credit_balances (
    budget_id     varchar COLLATE "C" NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    user_id       varchar NOT NULL,
    counted_picos numeric(30) NOT NULL DEFAULT 0, -- so much of what was spent has been taken from credits
    CONSTRAINT credit_balances_pkey PRIMARY KEY (budget_id)
);

ALTER TABLE users ADD COLUMN balance_id varchar;

ALTER TABLE budgets
    ADD COLUMN changes_at   timestamptz, -- when the next credit expires; in the past while leases hold some that has
    ADD COLUMN lifted_until timestamptz; -- until then, spending is counted but not limited
CREATE INDEX budgets_that_change ON budgets (changes_at) WHERE changes_at IS NOT NULL;

DROP TRIGGER budgets_changed ON budgets;
CREATE TRIGGER budgets_changed AFTER UPDATE OF limit_picos, period, timezone, lifted_until, changes_at ON budgets
FOR EACH ROW
WHEN ((OLD.limit_picos, OLD.period, OLD.timezone, OLD.lifted_until, OLD.changes_at) IS DISTINCT FROM
      (NEW.limit_picos, NEW.period, NEW.timezone, NEW.lifted_until, NEW.changes_at))
EXECUTE FUNCTION textgen_notify_budget();

-- Every server caches which budgets a caller has.
DROP TRIGGER users_changed ON users;
CREATE TRIGGER users_changed
AFTER UPDATE OF id, email, password_hash, name, profile_url, photo_url, is_subscribed, stripe_id, secret,
    num_self_hosted_instances, suspended, is_admin, budget_id, balance_id
ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances, OLD.suspended, OLD.is_admin, OLD.budget_id,
       OLD.balance_id)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances, NEW.suspended, NEW.is_admin, NEW.budget_id,
       NEW.balance_id))
EXECUTE FUNCTION textgen_notify_user();

-- What is left of each credit now, if what was spent since it was last counted comes from those that expire first.
CREATE FUNCTION textgen_credits_left(of_budget varchar)
RETURNS TABLE (id varchar, expires timestamptz, left_picos numeric) LANGUAGE sql STABLE AS $$
    SELECT e.id, e.expires, least(e.left_picos, greatest(e.up_to - n.uncounted, 0))
    FROM credit_balances b
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(w.spent_picos), 0) - b.counted_picos AS uncounted
        FROM budget_windows w WHERE w.budget_id = b.budget_id) AS n
    CROSS JOIN LATERAL (
        SELECT e.id, e.expires, e.left_picos,
            sum(e.left_picos) OVER (ORDER BY e.expires NULLS LAST, e.created, e.id) AS up_to
        FROM credit_entries e WHERE e.user_id = b.user_id AND e.left_picos > 0) AS e
    WHERE b.budget_id = of_budget
$$;

-- Counts what was spent of each credit, after taking away `taken`, and ends those whose time has come: an entry takes away
-- what is left of them, at once but for what leases hold, of which `held` remains. The budget's row must be locked.
-- Returns its limit, and when the next credit expires.
CREATE FUNCTION textgen_count_credits(
    of_budget varchar, held numeric, taken numeric, OUT new_limit numeric, OUT next_expiry timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    this_moment timestamptz := clock_timestamp();
    balance     credit_balances;
    credit      record;
    spent       numeric;
    uncounted   numeric;
    rest        numeric;
    gone        numeric;
    waits       boolean := false;
BEGIN
    SELECT * INTO balance FROM credit_balances b WHERE b.budget_id = of_budget FOR UPDATE;
    SELECT b.limit_picos INTO new_limit FROM budgets b WHERE b.id = of_budget;
    SELECT coalesce(sum(w.spent_picos), 0) INTO spent FROM budget_windows w WHERE w.budget_id = of_budget;
    uncounted := spent + taken - balance.counted_picos;
    FOR credit IN
        SELECT e.id, e.left_picos, e.expires FROM credit_entries e
        WHERE e.user_id = balance.user_id AND e.left_picos > 0
        ORDER BY e.expires NULLS LAST, e.created, e.id
    LOOP
        rest := credit.left_picos - least(credit.left_picos, uncounted);
        uncounted := uncounted - (credit.left_picos - rest);
        IF rest > 0 AND credit.expires <= this_moment THEN
            gone := least(rest, greatest(new_limit - spent - held, 0));
            IF gone > 0 THEN
                INSERT INTO credit_entries (id, user_id, kind, amount_picos, asked_picos, left_picos, expired_id, reason,
                    created)
                SELECT 'expiry:' || (count(*) + 1) || ':' || credit.id, balance.user_id, 'expiry', -gone, -gone, 0,
                    credit.id, '', this_moment
                FROM credit_entries e WHERE e.user_id = balance.user_id AND e.expired_id = credit.id;
                new_limit := new_limit - gone;
                rest := rest - gone;
            END IF;
            waits := waits OR rest > 0;
        ELSIF rest > 0 THEN
            next_expiry := least(next_expiry, credit.expires);
        END IF;
        IF rest <> credit.left_picos THEN
            UPDATE credit_entries e SET left_picos = rest WHERE e.id = credit.id;
        END IF;
    END LOOP;
    UPDATE credit_balances b SET counted_picos = spent - uncounted WHERE b.budget_id = of_budget;
    UPDATE budgets b SET limit_picos = new_limit,
        changes_at = CASE WHEN waits THEN timestamptz '1970-01-01 00:00:00+00' ELSE next_expiry END
    WHERE b.id = of_budget;
END $$;

-- Adds a credit, or takes credit away: as much as is neither spent nor leased. Returns the entry with this id, and whether
-- it is new.
CREATE FUNCTION textgen_add_credit(
    of_budget varchar, of_user varchar, new_id varchar, new_kind varchar, amount numeric, new_expires timestamptz,
    new_reason varchar
) RETURNS TABLE (entry credit_entries, is_new boolean) LANGUAGE plpgsql AS $$
DECLARE
    budget budgets;
    spent  numeric;
    change numeric := amount;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget FOR NO KEY UPDATE;
    PERFORM textgen_count_credits(of_budget, budget.leased_picos, 0);
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget;
    IF amount < 0 THEN
        SELECT coalesce(sum(w.spent_picos), 0) INTO spent FROM budget_windows w WHERE w.budget_id = of_budget;
        change := -least(-amount, greatest(budget.limit_picos - spent - budget.leased_picos, 0));
    END IF;
    INSERT INTO credit_entries AS e (id, user_id, kind, amount_picos, asked_picos, left_picos, expires, reason, created)
    VALUES (new_id, of_user, new_kind, change, amount, greatest(change, 0), new_expires, new_reason, clock_timestamp())
    ON CONFLICT DO NOTHING RETURNING e.* INTO entry;
    is_new := entry.id IS NOT NULL;
    IF is_new THEN
        UPDATE budgets b SET limit_picos = b.limit_picos + change WHERE b.id = of_budget;
        PERFORM textgen_count_credits(of_budget, budget.leased_picos, greatest(-change, 0));
    ELSE
        SELECT e.* INTO entry FROM credit_entries e WHERE e.id = new_id;
    END IF;
    RETURN NEXT;
END $$;

-- Counts and ends credits of which some may have expired. Processes call it often; each budget that another one has just
-- locked is left to it.
CREATE FUNCTION textgen_expire_credits() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    budget record;
    count  bigint := 0;
BEGIN
    FOR budget IN
        SELECT b.id, b.leased_picos FROM budgets b WHERE b.changes_at <= now() ORDER BY b.id
        FOR NO KEY UPDATE SKIP LOCKED LIMIT 1000
    LOOP
        PERFORM textgen_count_credits(budget.id, budget.leased_picos, 0);
        count := count + 1;
    END LOOP;
    RETURN count;
END $$;

-- A process asks for a grant, or hands something back. As before, but credits that have expired are not granted, a budget
-- that is lifted does not limit, and the answer says after how many microseconds no request may be admitted out of it any
-- more, as a credit expires or the budget limits again.
DROP FUNCTION textgen_ask_lease(varchar, varchar, numeric, numeric, numeric, boolean);
CREATE FUNCTION textgen_ask_lease(
    of_budget varchar, of_holder varchar, at_least numeric, at_most numeric, given_back numeric, partial boolean,
    OUT granted numeric, OUT returned numeric, OUT starts timestamptz, OUT is_short boolean, OUT unspent numeric,
    OUT collects boolean, OUT valid_micros bigint
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    budget         budgets;
    lease          leases;
    newly_returned numeric;
    free           numeric;
    needed         numeric;
    comfort        numeric;
    newly_granted  numeric;
    recalls        boolean;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM FROM lease_holders h WHERE h.id = of_holder AND h.ended IS NULL FOR SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    starts := textgen_budget_window(budget.period, budget.timezone, clock_timestamp());
    INSERT INTO leases AS l (budget_id, holder_id, granted_picos, returned_picos, settled_picos, window_starts)
    VALUES (of_budget, of_holder, 0, 0, 0, starts)
    ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET window_starts = greatest(l.window_starts, excluded.window_starts)
    RETURNING * INTO lease;
    newly_returned := greatest(given_back - lease.returned_picos, 0);
    IF budget.changes_at <= clock_timestamp() THEN
        SELECT c.new_limit, c.next_expiry INTO budget.limit_picos, budget.changes_at
        FROM textgen_count_credits(of_budget, budget.leased_picos - newly_returned, 0) AS c;
    END IF;
    -- A process whose clock is ahead may have charged to the next window already.
    unspent := budget.limit_picos
        - coalesce((SELECT max(w.spent_picos) FROM budget_windows w
                    WHERE w.budget_id = of_budget AND w.starts >= textgen_ask_lease.starts), 0);
    IF budget.lifted_until > clock_timestamp() THEN
        unspent := 1e27; -- more than anything costs
        budget.changes_at := least(budget.changes_at, budget.lifted_until);
    END IF;
    free := greatest(unspent - budget.leased_picos + newly_returned, 0);
    needed := greatest(at_least - lease.granted_picos, 0);
    comfort := greatest(at_most - lease.granted_picos, 0) - needed;
    is_short := needed > free;
    collects := is_short AND partial AND (budget.collector IS NULL OR budget.collector = of_holder
                                          OR budget.collects_until < clock_timestamp());
    newly_granted := CASE WHEN NOT is_short THEN needed + least(comfort, div(free - needed, 4))
                          WHEN collects THEN free ELSE 0 END;
    -- Not once for each question: those who wait ask often. Nor never again, if the clock was set back.
    recalls := is_short AND abs(extract(epoch FROM clock_timestamp() - budget.recalled)) > 0.05;
    UPDATE leases l SET granted_picos = l.granted_picos + newly_granted, returned_picos = l.returned_picos + newly_returned
    WHERE l.budget_id = of_budget AND l.holder_id = of_holder
    RETURNING l.granted_picos, l.returned_picos, l.window_starts INTO granted, returned, starts;
    UPDATE budgets b SET leased_picos = b.leased_picos + newly_granted - newly_returned,
        recalled = CASE WHEN recalls THEN clock_timestamp() ELSE b.recalled END,
        collector = CASE WHEN collects THEN of_holder WHEN b.collector = of_holder THEN NULL ELSE b.collector END,
        collects_until = CASE WHEN collects THEN clock_timestamp() + interval '500 milliseconds' ELSE b.collects_until END
    WHERE b.id = of_budget;
    IF recalls THEN
        PERFORM pg_notify('textgen_limits', of_budget || ' ' || of_holder);
    END IF;
    IF budget.changes_at IS NOT NULL THEN
        valid_micros := greatest(floor(extract(epoch FROM budget.changes_at - clock_timestamp()) * 1000000), 0)::bigint;
    END IF;
    RETURN NEXT;
END $$;

-- A balance in whole cents, as the user object shows it.
CREATE FUNCTION textgen_credit_cents(of_budget varchar) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT greatest(least(div(b.limit_picos - coalesce((SELECT sum(w.spent_picos) FROM budget_windows w
        WHERE w.budget_id = b.id), 0), 10000000000), 2147483647), 0)::integer
    FROM budgets b WHERE b.id = of_budget
$$;
