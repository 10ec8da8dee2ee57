-- Keys that share a budget are known by their rows, which are deleted a while after they have ended. What they were charged
-- stays in the ledger; so that it still counts when a budget is counted anew, those that were charged something are
-- remembered as long as the budget. There are no more of them than keys in the daily totals.
CREATE TABLE budget_keys (
    budget_id varchar COLLATE "C" NOT NULL REFERENCES budgets (id) ON DELETE CASCADE,
    key_id    varchar NOT NULL,
    CONSTRAINT budget_keys_pkey PRIMARY KEY (budget_id, key_id)
);

CREATE INDEX api_keys_budget ON api_keys (budget_id) WHERE budget_id IS NOT NULL;
CREATE INDEX api_keys_rate ON api_keys (rate_id) WHERE rate_id IS NOT NULL;

-- Of a budget that no other key has, nobody will ask. Nor of an account that is being deleted: its row is gone already.
CREATE FUNCTION textgen_remember_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO budget_keys (budget_id, key_id)
    SELECT r.budget_id, r.id FROM removed r
    JOIN budgets b ON b.id = r.budget_id
    JOIN users u ON u.id = r.user_id
    WHERE EXISTS (SELECT FROM api_keys k WHERE k.budget_id = r.budget_id)
        AND EXISTS (SELECT FROM usage_daily d WHERE d.user_id = r.user_id AND d.key_id = r.id
                        AND d.day >= (r.created AT TIME ZONE 'UTC')::date - 1)
    ORDER BY r.budget_id, r.id COLLATE "C"
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER api_keys_remembered AFTER DELETE ON api_keys REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION textgen_remember_keys();

-- As before; but with the keys that are remembered, and never less than what was counted in windows that lie in the new one.
CREATE OR REPLACE FUNCTION textgen_count_budget(of_budget varchar, of_user varchar, by_keys varchar[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    budget  budgets;
    since   timestamptz;
    counted numeric;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget FOR NO KEY UPDATE;
    since := textgen_budget_window(budget.period, budget.timezone, clock_timestamp());
    SELECT coalesce(sum(w.spent_picos), 0) INTO counted FROM budget_windows w
    WHERE w.budget_id = of_budget AND w.starts >= since;
    IF by_keys IS NOT NULL THEN
        by_keys := by_keys || ARRAY(SELECT k.key_id FROM budget_keys k WHERE k.budget_id = of_budget);
    END IF;
    DELETE FROM budget_windows w WHERE w.budget_id = of_budget;
    INSERT INTO budget_windows (budget_id, starts, spent_picos)
    SELECT of_budget, since, greatest(
        textgen_charged_since(of_user, by_keys, since)
            - textgen_unsettled(of_budget, since),
        counted);
END $$;
