-- Budgets, and the parts of them that processes hold: docs/limits.md explains them. Amounts are whole picodollars.

-- `leased_picos` is what all leases of the budget hold together, and with what was spent in the window at most the limit.
CREATE TABLE budgets (
    id           varchar COLLATE "C" NOT NULL,
    user_id      varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key_id       varchar REFERENCES api_keys (id) ON DELETE CASCADE, -- NULL for the whole account
    limit_picos  numeric(30) NOT NULL CHECK (limit_picos >= 0),
    period       varchar NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
    timezone     varchar NOT NULL DEFAULT 'UTC',
    leased_picos numeric(30) NOT NULL DEFAULT 0 CHECK (leased_picos >= 0),
    recalled     timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00', -- when leases were last asked back
    CONSTRAINT budgets_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX budgets_of_user ON budgets (user_id, coalesce(key_id, ''));
CREATE INDEX budgets_of_key ON budgets (key_id) WHERE key_id IS NOT NULL;

-- What was charged in each window.
CREATE TABLE budget_windows (
    budget_id   varchar COLLATE "C" NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    starts      timestamptz NOT NULL,
    spent_picos numeric(30) NOT NULL,
    CONSTRAINT budget_windows_pkey PRIMARY KEY (budget_id, starts)
) WITH (fillfactor = 50);

-- Processes that hold leases. Those that have ended are remembered, as a message of theirs may still be under way.
CREATE TABLE lease_holders (
    id      varchar COLLATE "C" NOT NULL,
    started timestamptz NOT NULL DEFAULT now(),
    ended   timestamptz,
    CONSTRAINT lease_holders_pkey PRIMARY KEY (id)
);

-- What a process holds of a budget: what was granted, less what was handed back or charged. The sums only grow.
CREATE TABLE leases (
    budget_id      varchar COLLATE "C" NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    holder_id      varchar COLLATE "C" NOT NULL REFERENCES lease_holders (id) ON DELETE CASCADE,
    granted_picos  numeric(30) NOT NULL,
    returned_picos numeric(30) NOT NULL,
    settled_picos  numeric(30) NOT NULL,
    window_starts  timestamptz NOT NULL, -- the newest window in which it was asked for
    CONSTRAINT leases_pkey PRIMARY KEY (budget_id, holder_id),
    CONSTRAINT leases_are_covered CHECK (returned_picos + settled_picos <= granted_picos)
) WITH (fillfactor = 50);
CREATE INDEX leases_of_holder ON leases (holder_id);

-- The start of the window in which a time lies.
CREATE FUNCTION textgen_budget_window(period varchar, timezone varchar, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE period WHEN 'total' THEN timestamptz '1970-01-01 00:00:00+00' ELSE date_trunc(period, at, timezone) END
$$;

-- A process asks for a grant, or hands something back. All amounts are sums over the life of the process. No row if there
-- is no such budget, or the process is not known or has ended.
CREATE FUNCTION textgen_ask_lease(
    of_budget varchar, of_holder varchar, at_least numeric, at_most numeric, given_back numeric, partial boolean,
    OUT granted numeric, OUT returned numeric, OUT starts timestamptz, OUT is_short boolean
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    budget         budgets;
    lease          leases;
    newly_returned numeric;
    free           numeric;
    needed         numeric;
    comfort        numeric;
    newly_granted  numeric;
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
    -- A process whose clock is ahead may have charged to the next window already.
    free := greatest(budget.limit_picos - budget.leased_picos + newly_returned
        - coalesce((SELECT max(w.spent_picos) FROM budget_windows w
                    WHERE w.budget_id = of_budget AND w.starts >= textgen_ask_lease.starts), 0), 0);
    needed := greatest(at_least - lease.granted_picos, 0);
    comfort := greatest(at_most - lease.granted_picos, 0) - needed;
    is_short := needed > free;
    newly_granted := CASE WHEN NOT is_short THEN needed + least(comfort, div(free - needed, 4))
                          WHEN partial THEN free ELSE 0 END;
    UPDATE leases l SET granted_picos = l.granted_picos + newly_granted, returned_picos = l.returned_picos + newly_returned
    WHERE l.budget_id = of_budget AND l.holder_id = of_holder
    RETURNING l.granted_picos, l.returned_picos, l.window_starts INTO granted, returned, starts;
    UPDATE budgets b SET leased_picos = b.leased_picos + newly_granted - newly_returned,
        recalled = CASE WHEN is_short THEN greatest(b.recalled, clock_timestamp()) ELSE b.recalled END
    WHERE b.id = of_budget;
    IF is_short AND budget.recalled < clock_timestamp() - interval '50 milliseconds' THEN
        PERFORM pg_notify('textgen_limits', of_budget);
    END IF;
    RETURN NEXT;
END $$;

-- New charges: moves what they cost from leased to spent, in the transaction that adds them to the ledger. Fails with
-- leases_are_covered if a first try costs more than its process holds. Any other charge is always made.
CREATE FUNCTION textgen_settle_leases(
    of_budgets varchar[], of_holders varchar[], created timestamptz[], costs numeric[], is_first_try boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    sum_of record;
    held   numeric;
BEGIN
    PERFORM FROM budgets b WHERE b.id = ANY (of_budgets) ORDER BY b.id FOR NO KEY UPDATE;
    INSERT INTO budget_windows AS w (budget_id, starts, spent_picos)
    SELECT b.id, textgen_budget_window(b.period, b.timezone, c.at) AS window_starts, sum(c.cost)
    FROM unnest(of_budgets, created, costs) AS c (budget_id, at, cost) JOIN budgets b ON b.id = c.budget_id
    GROUP BY b.id, window_starts ORDER BY b.id, window_starts
    ON CONFLICT ON CONSTRAINT budget_windows_pkey DO UPDATE SET spent_picos = w.spent_picos + excluded.spent_picos;
    FOR sum_of IN
        SELECT b.id AS budget_id, c.holder_id, sum(c.cost) AS cost
        FROM unnest(of_budgets, of_holders, costs) AS c (budget_id, holder_id, cost) JOIN budgets b ON b.id = c.budget_id
        GROUP BY b.id, c.holder_id ORDER BY b.id, c.holder_id COLLATE "C"
    LOOP
        SELECT l.granted_picos - l.returned_picos - l.settled_picos INTO held FROM leases l
        WHERE l.budget_id = sum_of.budget_id AND l.holder_id = sum_of.holder_id FOR NO KEY UPDATE;
        held := coalesce(held, 0);
        IF is_first_try AND held < sum_of.cost THEN
            RAISE EXCEPTION 'the process does not hold what it charges'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'leases_are_covered', TABLE = 'leases';
        END IF;
        UPDATE leases l SET settled_picos = l.settled_picos + least(held, sum_of.cost)
        WHERE l.budget_id = sum_of.budget_id AND l.holder_id = sum_of.holder_id;
        UPDATE budgets b SET leased_picos = b.leased_picos - least(held, sum_of.cost) WHERE b.id = sum_of.budget_id;
    END LOOP;
END $$;

-- Frees what a process holds that has ended. Its end must be committed before, so that it gets nothing more.
CREATE FUNCTION textgen_free_leases(of_holder varchar) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM budgets b WHERE b.id IN (SELECT l.budget_id FROM leases l WHERE l.holder_id = of_holder)
    ORDER BY b.id FOR NO KEY UPDATE;
    WITH freed AS (
        DELETE FROM leases l WHERE l.holder_id = of_holder
        RETURNING l.budget_id, l.granted_picos - l.returned_picos - l.settled_picos AS held)
    UPDATE budgets b SET leased_picos = b.leased_picos - freed.held FROM freed WHERE b.id = freed.budget_id;
END $$;

-- Every process hears of a changed limit.
CREATE FUNCTION textgen_notify_budget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('textgen_limits', coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;
CREATE TRIGGER budgets_made AFTER INSERT OR DELETE ON budgets FOR EACH ROW EXECUTE FUNCTION textgen_notify_budget();
CREATE TRIGGER budgets_changed AFTER UPDATE OF limit_picos, period, timezone ON budgets FOR EACH ROW
WHEN ((OLD.limit_picos, OLD.period, OLD.timezone) IS DISTINCT FROM (NEW.limit_picos, NEW.period, NEW.timezone))
EXECUTE FUNCTION textgen_notify_budget();
