-- Payments for credit of an account that is gone. One of an account that was deleted is refunded; of any other, which may
-- be another installation's with the same Stripe account, an operator decides.
CREATE TABLE stripe_refunds (
    session_id     varchar COLLATE "C" NOT NULL, -- of the checkout
    payment_intent varchar NOT NULL,
    customer       varchar NOT NULL,
    user_id        varchar NOT NULL, -- that was given to the checkout
    cents          bigint NOT NULL,
    put_aside      boolean NOT NULL,
    attempts       integer NOT NULL DEFAULT 0,
    key_number     integer NOT NULL DEFAULT 0, -- a further Idempotency-Key after a reply of 500
    next_at        timestamptz NOT NULL DEFAULT now(),
    done           timestamptz,
    problem        varchar,
    created        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stripe_refunds_pkey PRIMARY KEY (session_id)
);
CREATE INDEX stripe_refunds_open ON stripe_refunds (next_at) WHERE done IS NULL;

-- Customers whose account has another e-mail address or name than Stripe was told. `generation` grows with each change.
CREATE TABLE stripe_customer_changes (
    customer_id varchar COLLATE "C" NOT NULL,
    user_id     varchar NOT NULL,
    generation  bigint NOT NULL DEFAULT 1,
    attempts    integer NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stripe_customer_changes_pkey PRIMARY KEY (customer_id)
);
CREATE INDEX stripe_customer_changes_due ON stripe_customer_changes (next_at);

-- Whoever changes an account, from whichever program.
CREATE FUNCTION textgen_note_customer_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stripe_customer_changes AS c (customer_id, user_id) VALUES (NEW.stripe_id, NEW.id)
    ON CONFLICT (customer_id) DO UPDATE
    SET user_id = excluded.user_id, generation = c.generation + 1, attempts = 0, next_at = now();
    RETURN NULL;
END $$;
CREATE TRIGGER users_customer_change AFTER UPDATE OF email, name ON users FOR EACH ROW
WHEN (NEW.stripe_id <> '' AND (OLD.email, OLD.name) IS DISTINCT FROM (NEW.email, NEW.name))
EXECUTE FUNCTION textgen_note_customer_change();

-- For which end of its period the usage of a subscription that ends was put into the outbox.
ALTER TABLE stripe_subscriptions ADD COLUMN usage_closed timestamptz;
CREATE INDEX stripe_subscriptions_ending ON stripe_subscriptions (period_end) WHERE cancel_at_period_end;
