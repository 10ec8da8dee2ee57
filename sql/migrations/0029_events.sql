-- What has happened that somebody may want to be told of: an outbox. A row is made in the transaction that causes it, once
-- for each budget, window and threshold, and forgotten after 30 days. Nothing refers to accounts, which may be deleted.
CREATE TABLE events (
    id        bigint GENERATED ALWAYS AS IDENTITY,
    kind      varchar NOT NULL, -- budget.threshold or credit.low
    user_id   varchar NOT NULL,
    key_id    varchar,          -- NULL for the account
    budget_id varchar NOT NULL,
    starts    timestamptz NOT NULL, -- the window; for credit, when it was last added
    percent   integer NOT NULL,
    payload   jsonb NOT NULL,
    created   timestamptz NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (id),
    CONSTRAINT events_once UNIQUE (budget_id, starts, percent)
);
CREATE INDEX events_of_user ON events (user_id, id DESC);
CREATE INDEX events_by_age ON events (created);

-- What each sender has done with them. One that takes an event sets the time of its next attempt first, so that no other
-- process takes it meanwhile.
CREATE TABLE event_deliveries (
    sender    varchar NOT NULL CHECK (sender IN ('mail', 'webhook')),
    event_id  bigint NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    attempts  integer NOT NULL DEFAULT 0,
    next_at   timestamptz NOT NULL,
    delivered timestamptz, -- NULL until then
    CONSTRAINT event_deliveries_pkey PRIMARY KEY (event_id, sender)
);
CREATE INDEX event_deliveries_due ON event_deliveries (sender, next_at) WHERE delivered IS NULL;

-- The spending at which a window is looked at next; 0 to find that out.
ALTER TABLE budget_windows ADD COLUMN alert_picos numeric(30) NOT NULL DEFAULT 0;

-- What the account had when credit was last added, and when that was.
ALTER TABLE credit_balances
    ADD COLUMN topped_up       timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',
    ADD COLUMN topped_up_picos numeric(30) NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX credit_balances_of_user ON credit_balances (user_id);

-- Makes an event for each threshold that spending has reached in a window: half of the limit, 80 % and all of it; of
-- credit, a fifth left of what there was when it was last added, and nothing. Returns where the next threshold is.
CREATE FUNCTION textgen_note_thresholds(of_budget varchar, of_window timestamptz, spent numeric) RETURNS numeric
LANGUAGE plpgsql AS $$
DECLARE
    budget    budgets;
    balance   credit_balances;
    threshold integer;
    reached   numeric;
    upcoming  numeric;
    new_event bigint;
BEGIN
    SELECT * INTO budget FROM budgets b WHERE b.id = of_budget;
    SELECT * INTO balance FROM credit_balances b WHERE b.budget_id = of_budget;
    FOREACH threshold IN ARRAY CASE WHEN balance.budget_id IS NULL THEN ARRAY[50, 80, 100] ELSE ARRAY[80, 100] END LOOP
        reached := CASE WHEN balance.budget_id IS NULL THEN ceil(budget.limit_picos * threshold / 100)
                        ELSE budget.limit_picos - div(balance.topped_up_picos * (100 - threshold), 100) END;
        CONTINUE WHEN budget.limit_picos = 0;
        IF spent < reached THEN
            upcoming := least(upcoming, reached);
            CONTINUE;
        END IF;
        INSERT INTO events (kind, user_id, key_id, budget_id, starts, percent, payload, created)
        SELECT CASE WHEN balance.budget_id IS NULL THEN 'budget.threshold' ELSE 'credit.low' END, budget.user_id,
            (SELECT k.id FROM api_keys k WHERE k.user_id = budget.user_id AND k.budget_id = of_budget
             ORDER BY k.created DESC LIMIT 1),
            of_budget, coalesce(balance.topped_up, of_window), threshold,
            CASE WHEN balance.budget_id IS NULL THEN jsonb_build_object(
                'percent', threshold, 'limit_micros', div(budget.limit_picos, 1000000), 'spent_micros', div(spent, 1000000),
                'window', budget.period, 'timezone', budget.timezone,
                'resets', to_char(textgen_budget_window_end(budget.period, budget.timezone, of_window) AT TIME ZONE 'UTC',
                                  'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
            ELSE jsonb_build_object(
                'percent', threshold, 'balance_micros', greatest(div(budget.limit_picos - spent, 1000000), 0),
                'topped_up_micros', div(balance.topped_up_picos, 1000000)) END,
            clock_timestamp()
        ON CONFLICT ON CONSTRAINT events_once DO NOTHING RETURNING id INTO new_event;
        IF new_event IS NOT NULL THEN
            INSERT INTO event_deliveries (sender, event_id, next_at)
            VALUES ('mail', new_event, clock_timestamp()), ('webhook', new_event, clock_timestamp());
        END IF;
    END LOOP;
    RETURN coalesce(upcoming, 1e29);
END $$;

-- Runs in the transaction that charges, after its statement, and only where a threshold is reached.
CREATE FUNCTION textgen_window_alert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budget_windows w
    SET alert_picos = textgen_note_thresholds(NEW.budget_id, NEW.starts, NEW.spent_picos)
    WHERE w.budget_id = NEW.budget_id AND w.starts = NEW.starts;
    RETURN NULL;
END $$;
CREATE TRIGGER budget_windows_alert AFTER INSERT OR UPDATE OF spent_picos, alert_picos ON budget_windows FOR EACH ROW
WHEN (NEW.spent_picos >= NEW.alert_picos) EXECUTE FUNCTION textgen_window_alert();

-- A limit that changes moves the thresholds.
CREATE FUNCTION textgen_move_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budget_windows w SET alert_picos = 0
    WHERE w.budget_id = NEW.id AND w.starts >= textgen_budget_window(NEW.period, NEW.timezone, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER budgets_alerts AFTER UPDATE OF limit_picos ON budgets FOR EACH ROW
WHEN (OLD.limit_picos IS DISTINCT FROM NEW.limit_picos) EXECUTE FUNCTION textgen_move_alerts();

-- More credit begins a new count.
CREATE FUNCTION textgen_note_credit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credit_balances c SET topped_up = NEW.created, topped_up_picos = NEW.amount_picos
        + (SELECT b.limit_picos FROM budgets b WHERE b.id = c.budget_id)
        - coalesce((SELECT sum(w.spent_picos) FROM budget_windows w WHERE w.budget_id = c.budget_id), 0)
    WHERE c.user_id = NEW.user_id;
    RETURN NULL;
END $$;
CREATE TRIGGER credit_entries_added AFTER INSERT ON credit_entries FOR EACH ROW
WHEN (NEW.amount_picos > 0) EXECUTE FUNCTION textgen_note_credit();
