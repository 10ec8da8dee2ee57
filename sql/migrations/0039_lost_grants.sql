-- A standby that took over may have lost what was granted last. If a process settles more than it holds, as its charge was
-- made out of such a grant, and then asks as if it still had it, what it charged would stay set aside for it. So it is told
-- how many of the budgets that it charged to did not have so much set aside for it.
CREATE FUNCTION textgen_settle_noted(of_holder varchar, OUT settled bigint, OUT uncovered bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    skipped bigint := textgen_notes_after(of_holder);
    known   bigint[];
BEGIN
    SELECT array_agg(u.id) INTO known FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped;
    settled := 0;
    uncovered := 0;
    IF known IS NULL THEN RETURN; END IF;
    PERFORM FROM budgets b WHERE b.id IN (
        SELECT unnest(u.budget_ids) FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped
            AND u.id = ANY (known))
    ORDER BY b.id FOR NO KEY UPDATE;
    WITH taken AS (
        DELETE FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped AND u.id = ANY (known)
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
        SELECT b.id AS budget_id, s.cost AS charged,
            least(s.cost, coalesce(l.granted_picos - l.returned_picos - l.settled_picos, 0)) AS cost
        FROM (SELECT c.budget_id, sum(c.cost) AS cost FROM charges c GROUP BY c.budget_id) AS s
        JOIN budgets b ON b.id = s.budget_id
        LEFT JOIN leases l ON l.budget_id = s.budget_id AND l.holder_id = of_holder),
    moved AS (
        UPDATE leases l SET settled_picos = l.settled_picos + c.cost FROM covered c
        WHERE l.budget_id = c.budget_id AND l.holder_id = of_holder),
    freed AS (
        UPDATE budgets b SET leased_picos = b.leased_picos - c.cost FROM covered c WHERE b.id = c.budget_id)
    SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM covered c WHERE c.cost < c.charged)
    INTO settled, uncovered;
END $$;

-- As before.
CREATE OR REPLACE FUNCTION textgen_settle_deferred(of_holder varchar) RETURNS bigint LANGUAGE sql AS $$
    SELECT n.settled FROM textgen_settle_noted(of_holder) AS n
$$;
