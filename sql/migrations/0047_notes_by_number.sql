-- What a batch of charges costs its budgets is noted as two lists of numbers instead of lists of texts, times and decimals:
-- reading, adding up and deleting these took the database as long as a third of the charges themselves.

-- Stands for the id in notes.
ALTER TABLE budgets ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY,
    ADD CONSTRAINT budgets_number_key UNIQUE (number);

-- A row has either lists of ids, as processes of before write them, or of numbers.
ALTER TABLE unsettled
    ADD COLUMN numbers bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN picos bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN charged timestamptz, -- the time that all charges of `numbers` bear, to the quarter of an hour
    ALTER COLUMN budget_ids SET DEFAULT '{}',
    ALTER COLUMN created SET DEFAULT '{}',
    ALTER COLUMN costs SET DEFAULT '{}';
ALTER TABLE unsettled ALTER numbers SET STORAGE MAIN, ALTER picos SET STORAGE MAIN;

-- For the statement that charges: the process that makes the charges has ended, and its leases may be free already.
CREATE FUNCTION textgen_refuse_ended() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the process has ended'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'leases_are_covered', TABLE = 'leases';
END $$;

-- As before, with notes by number.
CREATE OR REPLACE FUNCTION textgen_settle_noted(of_holder varchar, OUT settled bigint, OUT uncovered bigint)
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
            AND u.id = ANY (known)
        UNION ALL
        SELECT b.id FROM (
            SELECT DISTINCT unnest(u.numbers) AS number FROM unsettled u
            WHERE u.holder_id = of_holder AND u.id > skipped AND u.id = ANY (known)) AS n
        JOIN budgets b ON b.number = n.number)
    ORDER BY b.id FOR NO KEY UPDATE;
    WITH taken AS (
        DELETE FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped AND u.id = ANY (known)
        RETURNING u.budget_ids, u.created, u.costs, u.numbers, u.picos, u.charged),
    charges AS MATERIALIZED (
        -- Windows begin at multiples of a quarter of an hour: zones differ by that.
        SELECT c.budget_id, min(c.at) AS at, sum(c.cost) AS cost
        FROM taken t CROSS JOIN LATERAL unnest(t.budget_ids, t.created, t.costs) AS c (budget_id, at, cost)
        GROUP BY c.budget_id, date_bin('15 minutes', c.at, '2000-01-01 00:00:00+00')
        UNION ALL
        SELECT b.id, n.at, n.cost
        FROM (
            SELECT c.number, min(t.charged) AS at, sum(c.cost) AS cost
            FROM taken t CROSS JOIN LATERAL unnest(t.numbers, t.picos) AS c (number, cost)
            GROUP BY c.number, date_bin('15 minutes', t.charged, '2000-01-01 00:00:00+00')) AS n
        JOIN budgets b ON b.number = n.number),
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

-- As before, with notes by number.
CREATE OR REPLACE FUNCTION textgen_unsettled(of_budget varchar, since timestamptz) RETURNS numeric LANGUAGE sql STABLE
SET jit = off AS $$
    SELECT coalesce(sum(c.cost), 0)
    FROM lease_holders h
    CROSS JOIN LATERAL (
        SELECT u.budget_ids, u.created, u.costs, u.numbers, u.picos, u.charged FROM unsettled u
        WHERE u.holder_id = h.id AND u.id > h.settled_up_to
        OFFSET 0) AS u -- one look into the index for each process
    CROSS JOIN LATERAL (
        SELECT n.cost FROM unnest(u.budget_ids, u.created, u.costs) AS n (budget_id, at, cost)
        WHERE n.budget_id = of_budget AND n.at >= since
        UNION ALL
        SELECT n.cost FROM unnest(u.numbers, u.picos) AS n (number, cost)
        WHERE n.number = (SELECT b.number FROM budgets b WHERE b.id = of_budget) AND u.charged >= since) AS c
$$;

-- As before, with notes by number.
CREATE OR REPLACE FUNCTION textgen_free_leases(of_holder varchar) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    skipped bigint := textgen_notes_after(of_holder);
BEGIN
    PERFORM FROM budgets b
    WHERE b.id IN (
        SELECT l.budget_id FROM leases l WHERE l.holder_id = of_holder
        UNION ALL
        SELECT unnest(u.budget_ids) FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped
        UNION ALL
        SELECT b.id FROM (
            SELECT DISTINCT unnest(u.numbers) AS number FROM unsettled u
            WHERE u.holder_id = of_holder AND u.id > skipped) AS n
        JOIN budgets b ON b.number = n.number)
    ORDER BY b.id FOR NO KEY UPDATE;
    PERFORM textgen_settle_deferred(of_holder);
    WITH freed AS (
        DELETE FROM leases l WHERE l.holder_id = of_holder
        RETURNING l.budget_id, l.granted_picos - l.returned_picos - l.settled_picos AS held)
    UPDATE budgets b SET leased_picos = b.leased_picos - freed.held FROM freed WHERE b.id = freed.budget_id;
END $$;
