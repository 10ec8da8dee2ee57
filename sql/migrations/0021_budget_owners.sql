-- Whose budgets they are: an account's or a key's row names its budget, so that who looks up a caller finds it without
-- another table, and a key that a rotation made shares that of its predecessor. There is no foreign key on users, as each
-- charge updates them.
ALTER TABLE users ADD COLUMN budget_id varchar;
ALTER TABLE api_keys ADD COLUMN budget_id varchar;

DROP INDEX budgets_of_user;
DROP INDEX budgets_of_key;
ALTER TABLE budgets DROP COLUMN key_id;
CREATE INDEX budgets_of_user ON budgets (user_id);

-- Of the processes that take less than they need, the one that collects what there is, and until when it is the only one.
ALTER TABLE budgets
    ADD COLUMN collector      varchar,
    ADD COLUMN collects_until timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00';

-- Every server caches which budgets a caller has.
DROP TRIGGER users_changed ON users;
CREATE TRIGGER users_changed
AFTER UPDATE OF id, email, password_hash, name, profile_url, photo_url, is_subscribed, stripe_id, secret,
    num_self_hosted_instances, suspended, is_admin, budget_id
ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances, OLD.suspended, OLD.is_admin, OLD.budget_id)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances, NEW.suspended, NEW.is_admin, NEW.budget_id))
EXECUTE FUNCTION textgen_notify_user();

DROP TRIGGER api_keys_changed ON api_keys;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.user_id, OLD.digest, OLD.expires, OLD.revoked, OLD.budget_id) IS DISTINCT FROM
      (NEW.user_id, NEW.digest, NEW.expires, NEW.revoked, NEW.budget_id))
EXECUTE FUNCTION textgen_notify_owner();

-- When the window in which a time lies ends; NULL for a budget in total.
CREATE FUNCTION textgen_budget_window_end(period varchar, timezone varchar, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE period WHEN 'total' THEN NULL ELSE
        ((textgen_budget_window(period, timezone, at) AT TIME ZONE timezone) + ('1 ' || period)::interval)
            AT TIME ZONE timezone END
$$;

-- A process asks for a grant, or hands something back. As before, but the answer also says what is left of the limit, were
-- everything handed back; the notification by which leases are asked back names the process that lacks something; and
-- what does not suffice is granted to one process at a time.
DROP FUNCTION textgen_ask_lease(varchar, varchar, numeric, numeric, numeric, boolean);
CREATE FUNCTION textgen_ask_lease(
    of_budget varchar, of_holder varchar, at_least numeric, at_most numeric, given_back numeric, partial boolean,
    OUT granted numeric, OUT returned numeric, OUT starts timestamptz, OUT is_short boolean, OUT unspent numeric,
    OUT collects boolean
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
    -- A process whose clock is ahead may have charged to the next window already.
    unspent := budget.limit_picos
        - coalesce((SELECT max(w.spent_picos) FROM budget_windows w
                    WHERE w.budget_id = of_budget AND w.starts >= textgen_ask_lease.starts), 0);
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
    RETURN NEXT;
END $$;

-- What a user was charged since a time, in picodollars: by these keys, or with or without any if that is NULL. Whole days
-- (UTC) come from the daily totals.
CREATE FUNCTION textgen_charged_since(of_user varchar, by_keys varchar[], since timestamptz) RETURNS numeric
LANGUAGE sql STABLE AS $$
    WITH border AS (
        SELECT CASE WHEN day::timestamp AT TIME ZONE 'UTC' = since THEN day ELSE day + 1 END AS first_day
        FROM (SELECT (since AT TIME ZONE 'UTC')::date AS day) AS days)
    SELECT coalesce((SELECT sum(d.cost_micros::numeric * 1000000 + d.cost_picos) FROM usage_daily d
                     WHERE d.user_id = of_user AND d.day >= (SELECT first_day FROM border)
                         AND (by_keys IS NULL OR d.key_id = ANY (by_keys))), 0)
         + coalesce((SELECT sum(e.cost_micros::numeric * 1000000 + e.cost_picos) FROM usage_events e
                     WHERE e.user_id = of_user AND e.created >= since
                         AND e.created < (SELECT first_day FROM border)::timestamp AT TIME ZONE 'UTC'
                         AND (by_keys IS NULL OR e.key_id = ANY (by_keys))), 0)
$$;

-- Counts anew what was charged in the current window of a budget: when it is made, or its windows change. Charges that are
-- being made meanwhile wait for its row, and are added then.
CREATE FUNCTION textgen_count_budget(of_budget varchar, of_user varchar, by_keys varchar[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    budget budgets;
    starts timestamptz;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget FOR NO KEY UPDATE;
    starts := textgen_budget_window(budget.period, budget.timezone, clock_timestamp());
    DELETE FROM budget_windows w WHERE w.budget_id = of_budget;
    INSERT INTO budget_windows (budget_id, starts, spent_picos)
    VALUES (of_budget, starts, textgen_charged_since(of_user, by_keys, starts));
END $$;
