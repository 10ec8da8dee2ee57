-- What was done to accounts by those who look after them. It refers to no other row, so that it outlives them all.
CREATE TABLE audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor_id   varchar NOT NULL DEFAULT '',  -- empty for the command line
    actor      varchar NOT NULL,             -- the e-mail address it had then, or "command line"
    action     varchar NOT NULL,
    user_id    varchar NOT NULL,
    user_email varchar NOT NULL,
    detail     varchar NOT NULL DEFAULT '',
    address    varchar NOT NULL DEFAULT ''   -- where the actor was
);
CREATE INDEX audit_of_user ON audit (user_id, id DESC);

-- An account is found among a million by how its address, its domain, its name or a key's visible prefix begins. Bytes
-- compare the same everywhere (COLLATE "C"), so a beginning is a range and a page starts where the last one ended.
CREATE INDEX users_email_begins ON users ((email COLLATE "C"), id);
CREATE INDEX users_domain_begins ON users ((('@' || split_part(email, '@', 2)) COLLATE "C"), id);
CREATE INDEX users_name_begins ON users ((lower(name) COLLATE "C"), id) WHERE name IS NOT NULL;
CREATE INDEX api_keys_prefix_begins ON api_keys ((prefix COLLATE "C"), user_id);

-- What everybody together used in the last days. `day` never changes, so that charges leave this index alone.
CREATE INDEX usage_daily_day ON usage_daily (day);
