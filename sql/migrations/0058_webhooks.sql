-- Web-hooks: addresses that the operator wants to be called at when something has happened (table events).
CREATE TABLE webhook_endpoints (
    id          varchar COLLATE "C" NOT NULL,
    url         varchar NOT NULL,
    secret      bytea NOT NULL,                  -- the key of signatures, which the receiver has too
    kinds       text[] NOT NULL DEFAULT '{}',    -- of events; empty for all
    description varchar NOT NULL DEFAULT '',
    disabled    timestamptz,                     -- since when nothing is sent
    created     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id)
);

-- What became of each event at each of them. Made when the sender takes the event from event_deliveries, and forgotten with it.
-- Whoever takes a row sets the time of its next attempt first, so that no other process takes it meanwhile.
CREATE TABLE webhook_deliveries (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    endpoint_id varchar COLLATE "C" NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    event_id    bigint NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    attempts    integer NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL,
    delivered   timestamptz,                     -- NULL until then
    gave_up     timestamptz,                     -- after the last attempt
    status      integer,                         -- of the last answer
    problem     varchar NOT NULL DEFAULT '',     -- of the last attempt
    created     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_deliveries_once UNIQUE (event_id, endpoint_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE delivered IS NULL AND gave_up IS NULL;
CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (endpoint_id, id DESC);

-- Events of the operator, which no e-mail is sent about, are for web-hooks all the same.
CREATE FUNCTION textgen_event_for_webhooks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event_deliveries (sender, event_id, next_at) VALUES ('webhook', NEW.id, clock_timestamp())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER events_for_webhooks AFTER INSERT ON events FOR EACH ROW
WHEN (NEW.kind NOT IN ('budget.threshold', 'credit.low')) EXECUTE FUNCTION textgen_event_for_webhooks();

-- An account that is suspended or restored.
CREATE FUNCTION textgen_note_suspension() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
    VALUES (CASE WHEN NEW.suspended IS NULL THEN 'account.restored' ELSE 'account.suspended' END, NEW.id,
        'account ' || NEW.id, clock_timestamp(), 0, jsonb_build_object('email', NEW.email), clock_timestamp())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER users_suspended AFTER UPDATE OF suspended ON users FOR EACH ROW
WHEN ((OLD.suspended IS NULL) <> (NEW.suspended IS NULL)) EXECUTE FUNCTION textgen_note_suspension();
