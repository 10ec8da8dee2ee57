-- What was paid at Stripe: subscriptions and purchases of credit. docs/payments.md explains it. Stripe's clock and order do
-- not count: whoever asks Stripe for an object takes a number first, and what was asked for later replaces what was asked
-- for earlier.
CREATE SEQUENCE stripe_fetches;

-- Web-hook events that were handled, so that none is handled twice; forgotten after 35 days.
CREATE TABLE stripe_events (
    id       varchar COLLATE "C" NOT NULL,
    kind     varchar NOT NULL,
    object   varchar NOT NULL, -- the id of what it is about
    created  timestamptz NOT NULL, -- by Stripe's clock
    handled  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stripe_events_pkey PRIMARY KEY (id)
);
CREATE INDEX stripe_events_by_age ON stripe_events (handled);

CREATE TABLE stripe_subscriptions (
    id                   varchar COLLATE "C" NOT NULL,
    user_id              varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    item_id              varchar NOT NULL, -- that of the plan; empty if it has none
    plan                 varchar NOT NULL CHECK (plan IN ('monthly', 'annual', 'self-hosted', 'other')),
    state                varchar NOT NULL, -- Stripe's: active, trialing, past_due, canceled and others
    instances            integer NOT NULL, -- self-hosted ones that it pays for
    period_end           timestamptz,
    cancel_at_period_end boolean NOT NULL,
    past_due_since       timestamptz, -- NULL unless it is
    fetch_number         bigint NOT NULL, -- the number that was taken
    updated              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stripe_subscriptions_pkey PRIMARY KEY (id)
);
CREATE INDEX stripe_subscriptions_of_user ON stripe_subscriptions (user_id);
CREATE INDEX stripe_subscriptions_past_due ON stripe_subscriptions (past_due_since) WHERE past_due_since IS NOT NULL;

-- Whether a subscription counts.
CREATE FUNCTION textgen_subscription_counts(state varchar, past_due_since timestamptz, grace_days integer)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT state IN ('active', 'trialing')
        OR coalesce(state = 'past_due' AND past_due_since > now() - grace_days * interval '1 day', false)
$$;

-- The page at Stripe where an account can subscribe: one at a time, so that nobody subscribes twice. `generation` is a part
-- of the Idempotency-Key with which it is made.
CREATE TABLE stripe_checkouts (
    user_id    varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation bigint NOT NULL DEFAULT 1,
    session_id varchar,
    CONSTRAINT stripe_checkouts_pkey PRIMARY KEY (user_id)
);

-- Credit that was bought. The books outlive the account.
CREATE TABLE credit_purchases (
    session_id     varchar COLLATE "C" NOT NULL, -- of the checkout
    payment_intent varchar COLLATE "C",
    user_id        varchar NOT NULL,
    amount_micros  bigint NOT NULL CHECK (amount_micros > 0),
    paid_cents     bigint NOT NULL CHECK (paid_cents > 0), -- with taxes
    due_micros     bigint NOT NULL DEFAULT 0, -- so much of it is to be taken back
    taken_micros   bigint NOT NULL DEFAULT 0, -- and so much was there to be taken
    created        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credit_purchases_pkey PRIMARY KEY (session_id),
    CONSTRAINT credit_purchases_payment UNIQUE (payment_intent)
);
CREATE INDEX credit_purchases_of_user ON credit_purchases (user_id);

-- What went back of a payment: refunds of a charge, or a dispute.
CREATE TABLE credit_returns (
    id         varchar COLLATE "C" NOT NULL, -- of the charge or the dispute
    session_id varchar COLLATE "C" NOT NULL REFERENCES credit_purchases (session_id),
    cents      bigint NOT NULL,
    fetch_number bigint NOT NULL,
    CONSTRAINT credit_returns_pkey PRIMARY KEY (id)
);
CREATE INDEX credit_returns_of_purchase ON credit_returns (session_id);

-- Customers whose account is gone: their subscriptions are to be cancelled. A row stays for 35 days after it was done, in
-- case that one is made late, on a page that was open.
CREATE TABLE stripe_cancellations (
    customer_id varchar COLLATE "C" NOT NULL,
    user_id     varchar NOT NULL,
    user_email  varchar NOT NULL,
    session_id  varchar, -- the page at Stripe that was open
    attempts    integer NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    done        timestamptz,
    CONSTRAINT stripe_cancellations_pkey PRIMARY KEY (customer_id)
);
CREATE INDEX stripe_cancellations_due ON stripe_cancellations (next_at) WHERE done IS NULL;

CREATE INDEX users_of_stripe_customer ON users (stripe_id) WHERE stripe_id IS NOT NULL;

-- Whoever deletes an account, from whichever program. Accounts of the Python system that shared an e-mail address may share
-- a customer, which goes with the last of them.
CREATE FUNCTION textgen_cancel_subscriptions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stripe_cancellations (customer_id, user_id, user_email, session_id)
    SELECT OLD.stripe_id, OLD.id, OLD.email, (SELECT c.session_id FROM stripe_checkouts c WHERE c.user_id = OLD.id)
    WHERE NOT EXISTS (SELECT FROM users u WHERE u.stripe_id = OLD.stripe_id AND u.id <> OLD.id)
    ON CONFLICT DO NOTHING;
    RETURN OLD;
END $$;
CREATE TRIGGER users_cancel_subscriptions BEFORE DELETE ON users FOR EACH ROW WHEN (OLD.stripe_id <> '')
EXECUTE FUNCTION textgen_cancel_subscriptions();

-- Where `textgen billing import` goes on, if it was interrupted: after the account with this id.
CREATE TABLE stripe_import (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    after_user varchar NOT NULL DEFAULT ''
);
INSERT INTO stripe_import DEFAULT VALUES;

-- The key of validation tokens, where no setting has one: 244 random bits.
ALTER TABLE installation ADD COLUMN validation_key bytea NOT NULL
    DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');
