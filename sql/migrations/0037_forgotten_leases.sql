-- A process forgets leases that it does not use, if nothing is outstanding of them, and it knows of all grants. Returns the
-- budgets of which it holds no lease now.
CREATE FUNCTION textgen_forget_leases(of_holder varchar, of_budgets varchar[], known numeric[]) RETURNS SETOF varchar
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM budgets b WHERE b.id = ANY (of_budgets) ORDER BY b.id FOR NO KEY UPDATE;
    DELETE FROM leases l USING unnest(of_budgets, known) AS f (budget_id, granted)
    WHERE l.budget_id = f.budget_id AND l.holder_id = of_holder AND l.granted_picos = f.granted
        AND l.returned_picos + l.settled_picos = l.granted_picos;
    RETURN QUERY SELECT f.id FROM unnest(of_budgets) AS f (id)
        WHERE NOT EXISTS (SELECT FROM leases l WHERE l.budget_id = f.id AND l.holder_id = of_holder);
END $$;
