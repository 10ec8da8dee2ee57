-- The answer to a process that asks for a lease can be lost. The next one tells it of all that it was granted, but not until
-- when that was good: it may have been granted while the budget was lifted, or out of a credit that has expired since. So a
-- process says how much it knows of (`known`), and if that is not all, nothing more is granted, and what it holds is good no
-- longer: it hands back what it has not set aside, and asks anew. The rest is as before.
CREATE FUNCTION textgen_ask_lease(
    of_budget varchar, of_holder varchar, known numeric, at_least numeric, at_most numeric, given_back numeric,
    partial boolean,
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
    knows          boolean;
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
    knows := known >= lease.granted_picos;
    needed := CASE WHEN knows THEN greatest(at_least - lease.granted_picos, 0) ELSE 0 END;
    comfort := CASE WHEN knows THEN greatest(at_most - lease.granted_picos, 0) - needed ELSE 0 END;
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
    IF NOT knows THEN
        valid_micros := 0;
    ELSIF budget.changes_at IS NOT NULL THEN
        valid_micros := greatest(floor(extract(epoch FROM budget.changes_at - clock_timestamp()) * 1000000), 0)::bigint;
    END IF;
    RETURN NEXT;
END $$;

-- A process of an earlier version knows of all, as far as can be told.
CREATE OR REPLACE FUNCTION textgen_ask_lease(
    of_budget varchar, of_holder varchar, at_least numeric, at_most numeric, given_back numeric, partial boolean,
    OUT granted numeric, OUT returned numeric, OUT starts timestamptz, OUT is_short boolean, OUT unspent numeric,
    OUT collects boolean, OUT valid_micros bigint
) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT * FROM textgen_ask_lease(of_budget, of_holder, 'Infinity'::numeric, at_least, at_most, given_back, partial)
$$;
