-- New charges: moves what they cost from leased to spent, in the transaction that adds them to the ledger. Fails with
-- leases_are_covered if a first try costs more than its process holds. Any other charge is always made. As before, but
-- all budgets of a first try are settled by one statement. The rows of budgets are locked first, and guard the others.
CREATE OR REPLACE FUNCTION textgen_settle_leases(
    of_budgets varchar[], of_holders varchar[], created timestamptz[], costs numeric[], is_first_try boolean
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    sum_of    record;
    held      numeric;
    uncovered bigint;
BEGIN
    PERFORM FROM budgets b WHERE b.id = ANY (of_budgets) ORDER BY b.id FOR NO KEY UPDATE;
    IF is_first_try THEN
        WITH charges AS MATERIALIZED (
            SELECT b.id, b.period, b.timezone, c.holder_id, c.at, c.cost
            FROM unnest(of_budgets, of_holders, created, costs) AS c (budget_id, holder_id, at, cost)
            JOIN budgets b ON b.id = c.budget_id),
        spent AS (
            INSERT INTO budget_windows AS w (budget_id, starts, spent_picos)
            SELECT c.id, textgen_budget_window(c.period, c.timezone, c.at) AS window_starts, sum(c.cost)
            FROM charges c GROUP BY c.id, window_starts
            ON CONFLICT ON CONSTRAINT budget_windows_pkey DO UPDATE SET spent_picos = w.spent_picos + excluded.spent_picos),
        sums AS MATERIALIZED (
            -- What costs nothing needs no lease.
            SELECT c.id, c.holder_id, sum(c.cost) AS cost FROM charges c
            GROUP BY c.id, c.holder_id HAVING sum(c.cost) > 0),
        settled AS (
            UPDATE leases l SET settled_picos = l.settled_picos + s.cost FROM sums s
            WHERE l.budget_id = s.id AND l.holder_id = s.holder_id
                AND l.granted_picos - l.returned_picos - l.settled_picos >= s.cost
            RETURNING l.budget_id, s.cost),
        freed AS (
            UPDATE budgets b SET leased_picos = b.leased_picos - s.cost
            FROM (SELECT s.budget_id, sum(s.cost) AS cost FROM settled s GROUP BY s.budget_id) AS s
            WHERE b.id = s.budget_id)
        SELECT (SELECT count(*) FROM sums) - (SELECT count(*) FROM settled) INTO uncovered;
        IF uncovered > 0 THEN
            RAISE EXCEPTION 'the process does not hold what it charges'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'leases_are_covered', TABLE = 'leases';
        END IF;
        RETURN;
    END IF;

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
        UPDATE leases l SET settled_picos = l.settled_picos + least(held, sum_of.cost)
        WHERE l.budget_id = sum_of.budget_id AND l.holder_id = sum_of.holder_id;
        UPDATE budgets b SET leased_picos = b.leased_picos - least(held, sum_of.cost) WHERE b.id = sum_of.budget_id;
    END LOOP;
END $$;
