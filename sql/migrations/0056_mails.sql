-- Mails that are to be sent: an outbox. A row is made in the transaction that it tells of, and says what the mail is about
-- and not its text: that is made when it is sent, together with its link, which is stored nowhere. Rows that were sent are
-- kept for 30 days without details: by them it is known how many mails somebody got lately. Nothing refers to accounts,
-- which may be deleted.
CREATE TABLE mails (
    id        varchar NOT NULL,            -- random; also the Message-ID
    kind      varchar NOT NULL,            -- see src/mail/letter.rs
    user_id   varchar NOT NULL DEFAULT '', -- empty: whoever has the address when it is sent
    recipient varchar NOT NULL,
    details   jsonb NOT NULL DEFAULT '{}',
    created   timestamptz NOT NULL DEFAULT now(),
    expires   timestamptz NOT NULL,        -- after that it is not sent
    attempts  integer NOT NULL DEFAULT 0,
    next_at   timestamptz NOT NULL DEFAULT now(),
    sent      timestamptz,
    put_aside timestamptz,                 -- it is not sent, as `problem` says
    problem   varchar,
    CONSTRAINT mails_pkey PRIMARY KEY (id)
);
CREATE INDEX mails_due ON mails (next_at, id) WHERE sent IS NULL AND put_aside IS NULL;
CREATE INDEX mails_of_recipient ON mails (recipient, kind, created);
CREATE INDEX mails_by_age ON mails (created);
CREATE INDEX mails_aside ON mails (put_aside) WHERE put_aside IS NOT NULL;

-- Links that let somebody do something once. The link holds a token; here is only its SHA-256 digest.
CREATE TABLE account_links (
    digest  bytea NOT NULL,
    user_id varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    purpose varchar NOT NULL CHECK (purpose IN ('password', 'email', 'verify')),
    email   varchar NOT NULL,             -- where it was sent; for `email` the new address; empty if an administrator has it
    created timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL,
    CONSTRAINT account_links_pkey PRIMARY KEY (digest)
);
CREATE INDEX account_links_of_user ON account_links (user_id, purpose, created);
CREATE INDEX account_links_by_expiry ON account_links (expires);

-- When it was shown that the account's owner gets mails at its address. Nobody is told of this change, as it permits
-- nothing.
ALTER TABLE users ADD COLUMN email_verified timestamptz;
