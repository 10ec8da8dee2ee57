-- Settling each charge in its own transaction made budgets slow: their rows are few, and all charges update them. So the
-- statement that charges only notes what it costs, in one row, and several times a second a process settles what it has
-- noted, as one sum for each budget. Until then it stays set aside, so budgets hold: docs/limits.md explains it.

-- What was charged and is not settled: the lists have an element for each budget and time.
CREATE TABLE unsettled (
    holder_id  varchar COLLATE "C" NOT NULL, -- the process
    id         bigint GENERATED ALWAYS AS IDENTITY,
    budget_ids varchar[] COLLATE "C" NOT NULL,
    created    timestamptz[] NOT NULL,
    costs      numeric[] NOT NULL,
    CONSTRAINT unsettled_pkey PRIMARY KEY (holder_id, id)
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE unsettled ALTER budget_ids SET STORAGE MAIN, ALTER created SET STORAGE MAIN, ALTER costs SET STORAGE MAIN;

-- Notes what new charges cost, in the statement that adds them to the ledger. Fails with leases_are_covered if a process
-- has ended: its leases may be free already.
CREATE FUNCTION textgen_defer_settlements(
    of_budgets varchar[], of_holders varchar[], at timestamptz[], amounts numeric[]
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    alive bigint;
BEGIN
    PERFORM FROM lease_holders h WHERE h.id = ANY (of_holders) AND h.ended IS NULL ORDER BY h.id FOR SHARE;
    GET DIAGNOSTICS alive = ROW_COUNT;
    IF alive < (SELECT count(DISTINCT h) FROM unnest(of_holders) AS h) THEN
        RAISE EXCEPTION 'the process has ended'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'leases_are_covered', TABLE = 'leases';
    END IF;
    INSERT INTO unsettled (holder_id, budget_ids, created, costs)
    SELECT n.holder_id, array_agg(n.budget_id), array_agg(n.at), array_agg(n.cost)
    FROM unnest(of_budgets, of_holders, at, amounts) AS n (budget_id, holder_id, at, cost) GROUP BY n.holder_id;
END $$;

-- Settles what a process has noted: moves it from leased to spent. Returns how many rows that were.
CREATE FUNCTION textgen_settle_deferred(of_holder varchar) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    known bigint[];
    count bigint;
BEGIN
    SELECT array_agg(u.id) INTO known FROM unsettled u WHERE u.holder_id = of_holder;
    IF known IS NULL THEN RETURN 0; END IF;
    PERFORM FROM budgets b WHERE b.id IN (
        SELECT unnest(u.budget_ids) FROM unsettled u WHERE u.holder_id = of_holder AND u.id = ANY (known))
    ORDER BY b.id FOR NO KEY UPDATE;
    WITH taken AS (
        DELETE FROM unsettled u WHERE u.holder_id = of_holder AND u.id = ANY (known)
        RETURNING u.budget_ids, u.created, u.costs),
    charges AS MATERIALIZED (
        -- Windows begin at multiples of a quarter of an hour: zones differ by that.
        SELECT c.budget_id, min(c.at) AS at, sum(c.cost) AS cost
        FROM taken t CROSS JOIN LATERAL unnest(t.budget_ids, t.created, t.costs) AS c (budget_id, at, cost)
        GROUP BY c.budget_id, date_bin('15 minutes', c.at, '2000-01-01 00:00:00+00')),
    spent AS (
        INSERT INTO budget_windows AS w (budget_id, starts, spent_picos)
        SELECT b.id, textgen_budget_window(b.period, b.timezone, c.at) AS window_starts, sum(c.cost)
        FROM charges c JOIN budgets b ON b.id = c.budget_id GROUP BY b.id, window_starts
        ON CONFLICT ON CONSTRAINT budget_windows_pkey DO UPDATE SET spent_picos = w.spent_picos + excluded.spent_picos),
    covered AS MATERIALIZED (
        SELECT l.budget_id, least(s.cost, l.granted_picos - l.returned_picos - l.settled_picos) AS cost
        FROM (SELECT c.budget_id, sum(c.cost) AS cost FROM charges c GROUP BY c.budget_id) AS s
        JOIN leases l ON l.budget_id = s.budget_id AND l.holder_id = of_holder),
    settled AS (
        UPDATE leases l SET settled_picos = l.settled_picos + c.cost FROM covered c
        WHERE l.budget_id = c.budget_id AND l.holder_id = of_holder),
    freed AS (
        UPDATE budgets b SET leased_picos = b.leased_picos - c.cost FROM covered c WHERE b.id = c.budget_id)
    SELECT count(*) FROM taken INTO count;
    RETURN count;
END $$;

-- What was charged to a budget since a time and is not settled.
CREATE FUNCTION textgen_unsettled(of_budget varchar, since timestamptz) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(c.cost), 0)
    FROM unsettled u CROSS JOIN LATERAL unnest(u.budget_ids, u.created, u.costs) AS c (budget_id, at, cost)
    WHERE c.budget_id = of_budget AND c.at >= since
$$;

-- What was charged to a budget in all windows.
CREATE FUNCTION textgen_spent(of_budget varchar) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT sum(w.spent_picos) FROM budget_windows w WHERE w.budget_id = of_budget), 0)
        + textgen_unsettled(of_budget, '-infinity')
$$;

-- Frees what a process holds that has ended, as before, once all that it has noted is settled. Its end must be committed
-- before, so that it notes and gets nothing more.
CREATE OR REPLACE FUNCTION textgen_free_leases(of_holder varchar) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM budgets b
    WHERE b.id IN (SELECT l.budget_id FROM leases l WHERE l.holder_id = of_holder)
       OR b.id IN (SELECT unnest(u.budget_ids) FROM unsettled u WHERE u.holder_id = of_holder)
    ORDER BY b.id FOR NO KEY UPDATE;
    PERFORM textgen_settle_deferred(of_holder);
    WITH freed AS (
        DELETE FROM leases l WHERE l.holder_id = of_holder
        RETURNING l.budget_id, l.granted_picos - l.returned_picos - l.settled_picos AS held)
    UPDATE budgets b SET leased_picos = b.leased_picos - freed.held FROM freed WHERE b.id = freed.budget_id;
END $$;

-- As before, but what is not settled yet is in the ledger already.
CREATE OR REPLACE FUNCTION textgen_count_budget(of_budget varchar, of_user varchar, by_keys varchar[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    budget budgets;
    starts timestamptz;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget FOR NO KEY UPDATE;
    starts := textgen_budget_window(budget.period, budget.timezone, clock_timestamp());
    DELETE FROM budget_windows w WHERE w.budget_id = of_budget;
    INSERT INTO budget_windows (budget_id, starts, spent_picos)
    SELECT of_budget, starts,
        greatest(textgen_charged_since(of_user, by_keys, starts) - textgen_unsettled(of_budget, starts), 0);
END $$;

-- As before, with what is not settled yet.
CREATE OR REPLACE FUNCTION textgen_credits_left(of_budget varchar)
RETURNS TABLE (id varchar, expires timestamptz, left_picos numeric) LANGUAGE sql STABLE AS $$
    SELECT e.id, e.expires, least(e.left_picos, greatest(e.up_to - n.uncounted, 0))
    FROM credit_balances b
    CROSS JOIN LATERAL (SELECT textgen_spent(b.budget_id) - b.counted_picos AS uncounted) AS n
    CROSS JOIN LATERAL (
        SELECT e.id, e.expires, e.left_picos,
            sum(e.left_picos) OVER (ORDER BY e.expires NULLS LAST, e.created, e.id) AS up_to
        FROM credit_entries e WHERE e.user_id = b.user_id AND e.left_picos > 0) AS e
    WHERE b.budget_id = of_budget
$$;

CREATE OR REPLACE FUNCTION textgen_credit_cents(of_budget varchar) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT greatest(least(div(b.limit_picos - textgen_spent(b.id), 10000000000), 2147483647), 0)::integer
    FROM budgets b WHERE b.id = of_budget
$$;

CREATE OR REPLACE FUNCTION textgen_note_credit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credit_balances c SET topped_up = NEW.created, topped_up_picos = NEW.amount_picos
        + (SELECT b.limit_picos FROM budgets b WHERE b.id = c.budget_id) - textgen_spent(c.budget_id)
    WHERE c.user_id = NEW.user_id;
    RETURN NULL;
END $$;

-- As before. Of what leases hold, what was charged and is not settled counts as spent.
CREATE OR REPLACE FUNCTION textgen_count_credits(
    of_budget varchar, held numeric, taken numeric, OUT new_limit numeric, OUT next_expiry timestamptz
) LANGUAGE plpgsql AS $$
DECLARE
    this_moment timestamptz := clock_timestamp();
    balance     credit_balances;
    credit      record;
    spent       numeric;
    unsettled   numeric;
    uncounted   numeric;
    rest        numeric;
    gone        numeric;
    waits       boolean := false;
BEGIN
    SELECT * INTO balance FROM credit_balances b WHERE b.budget_id = of_budget FOR UPDATE;
    SELECT b.limit_picos INTO new_limit FROM budgets b WHERE b.id = of_budget;
    SELECT textgen_spent(of_budget), textgen_unsettled(of_budget, '-infinity') INTO spent, unsettled;
    held := held - unsettled;
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
