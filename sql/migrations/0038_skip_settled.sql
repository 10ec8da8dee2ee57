-- While a long transaction of somebody else runs, such as a dump, rows that are deleted stay in tables and indexes. Whoever
-- looked for notes of charges read all that were settled since then. So a process remembers up to which of its notes all
-- are settled, and nobody reads those.

-- Of the notes of this process (`unsettled.id`), those up to this one are settled.
ALTER TABLE lease_holders ADD COLUMN settled_up_to bigint NOT NULL DEFAULT 0;

-- Notes of a process with an id up to the result are settled. Ids are not in the order of commits, but whoever notes a
-- charge holds a lock on the row of its process from before it takes an id to its commit, so none of them can come later.
CREATE FUNCTION textgen_skip_settled(of_holder varchar) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    skipped bigint;
    up_to   bigint;
BEGIN
    SELECT h.settled_up_to INTO skipped FROM lease_holders h WHERE h.id = of_holder FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    -- This statement sees what was committed before the lock was free.
    SELECT min(u.id) - 1 INTO up_to FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped;
    up_to := coalesce(up_to, nextval('unsettled_id_seq'));
    UPDATE lease_holders h SET settled_up_to = up_to WHERE h.id = of_holder;
    RETURN up_to;
END $$;

-- The notes of a process that are to be read come after this one.
CREATE FUNCTION textgen_notes_after(of_holder varchar) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT h.settled_up_to FROM lease_holders h WHERE h.id = of_holder), 0)
$$;

-- As before, but what is known to be settled is not read.
CREATE OR REPLACE FUNCTION textgen_settle_deferred(of_holder varchar) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    skipped bigint := textgen_notes_after(of_holder);
    known   bigint[];
    count   bigint;
BEGIN
    SELECT array_agg(u.id) INTO known FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped;
    IF known IS NULL THEN RETURN 0; END IF;
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

-- As before, but what is known to be settled is not read. The rows that are read are few, whatever the planner believes.
CREATE OR REPLACE FUNCTION textgen_unsettled(of_budget varchar, since timestamptz) RETURNS numeric LANGUAGE sql STABLE
SET jit = off AS $$
    SELECT coalesce(sum(c.cost), 0)
    FROM lease_holders h
    CROSS JOIN LATERAL (
        SELECT u.budget_ids, u.created, u.costs FROM unsettled u
        WHERE u.holder_id = h.id AND u.id > h.settled_up_to
        OFFSET 0) AS u -- one look into the index for each process
    CROSS JOIN LATERAL unnest(u.budget_ids, u.created, u.costs) AS c (budget_id, at, cost)
    WHERE c.budget_id = of_budget AND c.at >= since
$$;

CREATE OR REPLACE FUNCTION textgen_free_leases(of_holder varchar) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    skipped bigint := textgen_notes_after(of_holder);
BEGIN
    PERFORM FROM budgets b
    WHERE b.id IN (SELECT l.budget_id FROM leases l WHERE l.holder_id = of_holder)
       OR b.id IN (SELECT unnest(u.budget_ids) FROM unsettled u WHERE u.holder_id = of_holder AND u.id > skipped)
    ORDER BY b.id FOR NO KEY UPDATE;
    PERFORM textgen_settle_deferred(of_holder);
    WITH freed AS (
        DELETE FROM leases l WHERE l.holder_id = of_holder
        RETURNING l.budget_id, l.granted_picos - l.returned_picos - l.settled_picos AS held)
    UPDATE budgets b SET leased_picos = b.leased_picos - freed.held FROM freed WHERE b.id = freed.budget_id;
END $$;
