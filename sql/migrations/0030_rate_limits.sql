-- How many requests and tokens a minute, and requests at once, an account or a key may have, and the permits of these that
-- processes hold: docs/limits.md explains them.

CREATE TABLE rate_limits (
    id                  varchar COLLATE "C" NOT NULL,
    user_id             varchar NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    requests_per_minute bigint CHECK (requests_per_minute > 0),
    tokens_per_minute   bigint CHECK (tokens_per_minute > 0),
    concurrent          bigint CHECK (concurrent > 0),
    recalled            timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00', -- when permits were last asked back
    CONSTRAINT rate_limits_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50);
CREATE INDEX rate_limits_of_user ON rate_limits (user_id);

-- What a process holds of one kind of limit: what was granted, less what was handed back. The sums only grow.
CREATE TABLE rate_shares (
    rate_id   varchar COLLATE "C" NOT NULL REFERENCES rate_limits (id) ON DELETE CASCADE,
    kind      integer NOT NULL, -- 1 requests a minute, 2 tokens a minute, 3 requests at once
    holder_id varchar COLLATE "C" NOT NULL REFERENCES lease_holders (id) ON DELETE CASCADE,
    granted   bigint NOT NULL,
    returned  bigint NOT NULL,
    idle      bigint NOT NULL,      -- what it did not use when it last asked
    ready     timestamptz NOT NULL, -- when the next of its permits can be used
    CONSTRAINT rate_shares_pkey PRIMARY KEY (rate_id, kind, holder_id),
    CONSTRAINT rate_shares_are_granted CHECK (returned <= granted)
) WITH (fillfactor = 50);
CREATE INDEX rate_shares_of_holder ON rate_shares (holder_id);

-- What processes held that died: they may have used it a moment before.
CREATE TABLE rate_cooling (
    rate_id varchar COLLATE "C" NOT NULL REFERENCES rate_limits (id) ON DELETE CASCADE,
    kind    integer NOT NULL,
    amount  bigint NOT NULL,
    ready   timestamptz NOT NULL
);
CREATE INDEX rate_cooling_of_rate ON rate_cooling (rate_id);

ALTER TABLE users ADD COLUMN rate_id varchar;
ALTER TABLE api_keys ADD COLUMN rate_id varchar;

-- A process asks for permits, or hands some back. The lists have an amount for each kind; amounts are sums over the life of
-- the process. The first row says that there are such limits; no row if there are none, or the process is not known or has
-- ended.
CREATE FUNCTION textgen_ask_permits(
    of_rate varchar, of_holder varchar, at_least bigint[], at_most bigint[], given_back bigint[], idle_now bigint[],
    ready_in bigint[],
    OUT kind integer, OUT most bigint, OUT granted bigint, OUT returned bigint, OUT is_short boolean,
    OUT elsewhere bigint, OUT elsewhere_in bigint
) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    rate          rate_limits;
    share         rate_shares;
    at            timestamptz;
    held          bigint;
    others        bigint;
    others_idle   bigint;
    next_ready    timestamptz;
    cooling       bigint;
    free          bigint;
    needed        bigint;
    newly_granted bigint;
    recalls       boolean := false;
BEGIN
    SELECT * INTO rate FROM rate_limits r WHERE r.id = of_rate FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    PERFORM FROM lease_holders h WHERE h.id = of_holder AND h.ended IS NULL FOR SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    at := clock_timestamp();
    kind := 0;
    RETURN NEXT;
    DELETE FROM rate_cooling c WHERE c.rate_id = of_rate AND c.ready <= at;
    FOR k IN 1..3 LOOP
        kind := k;
        most := (ARRAY[rate.requests_per_minute, rate.tokens_per_minute, rate.concurrent])[k];
        CONTINUE WHEN most IS NULL;
        INSERT INTO rate_shares AS s (rate_id, kind, holder_id, granted, returned, idle, ready)
        VALUES (of_rate, k, of_holder, 0, 0, idle_now[k],
                at + ready_in[k] * interval '1 microsecond')
        ON CONFLICT ON CONSTRAINT rate_shares_pkey DO UPDATE SET
            returned = greatest(s.returned, least(given_back[k], s.granted)),
            idle = excluded.idle, ready = excluded.ready
        RETURNING * INTO share;
        SELECT coalesce(sum(s.granted - s.returned), 0),
               coalesce(sum(s.granted - s.returned) FILTER (WHERE s.holder_id <> of_holder), 0),
               coalesce(sum(greatest(least(s.idle, s.granted - s.returned), 0)) FILTER (WHERE s.holder_id <> of_holder), 0),
               min(s.ready) FILTER (WHERE s.holder_id <> of_holder AND s.granted > s.returned)
        INTO held, others, others_idle, next_ready
        FROM rate_shares s WHERE s.rate_id = of_rate AND s.kind = k;
        SELECT coalesce(sum(c.amount), 0), least(next_ready, min(c.ready)) INTO cooling, next_ready
        FROM rate_cooling c WHERE c.rate_id = of_rate AND c.kind = k;
        free := greatest(most - held - cooling, 0);
        needed := greatest(at_least[k] - share.granted, 0);
        is_short := needed > free;
        newly_granted := CASE WHEN is_short THEN 0 ELSE
            needed + least(greatest(at_most[k] - share.granted - needed, 0), (free - needed) / 4) END;
        IF newly_granted > 0 THEN
            -- Others may ask for what of it is not used.
            UPDATE rate_shares s SET granted = s.granted + newly_granted, idle = s.idle + newly_granted, ready = at
            WHERE s.rate_id = of_rate AND s.kind = k AND s.holder_id = of_holder;
        END IF;
        granted := share.granted + newly_granted;
        returned := share.returned;
        elsewhere := free - newly_granted + others_idle;
        -- What is held beyond a limit that was lowered comes back first.
        elsewhere_in := CASE WHEN held + cooling > most THEN 60000000 WHEN next_ready IS NULL THEN NULL
            ELSE greatest(extract(epoch FROM next_ready - at) * 1000000, 0)::bigint END;
        recalls := recalls OR (is_short AND others > 0);
        RETURN NEXT;
    END LOOP;
    -- Not once for each question: those who wait ask often. Nor never again, if the clock was set back.
    IF recalls AND abs(extract(epoch FROM at - rate.recalled)) > 0.03 THEN
        UPDATE rate_limits r SET recalled = at WHERE r.id = of_rate;
        PERFORM pg_notify('textgen_limits', of_rate || ' ' || of_holder);
    END IF;
END $$;

-- Frees what a process holds that has ended, whose end must be committed before: places of requests at once, and the rest
-- a minute later. The database's clock may be stepped meanwhile.
CREATE FUNCTION textgen_free_permits(of_holder varchar) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM rate_limits r WHERE r.id IN (SELECT s.rate_id FROM rate_shares s WHERE s.holder_id = of_holder)
    ORDER BY r.id FOR NO KEY UPDATE;
    WITH freed AS (DELETE FROM rate_shares s WHERE s.holder_id = of_holder
                   RETURNING s.rate_id, s.kind, s.granted - s.returned AS held)
    INSERT INTO rate_cooling (rate_id, kind, amount, ready)
    SELECT f.rate_id, f.kind, f.held, clock_timestamp() + interval '61.5 seconds'
    FROM freed f WHERE f.kind < 3 AND f.held > 0;
END $$;

-- Every process hears of changed limits.
CREATE TRIGGER rate_limits_made AFTER INSERT OR DELETE ON rate_limits
FOR EACH ROW EXECUTE FUNCTION textgen_notify_budget();
CREATE TRIGGER rate_limits_changed AFTER UPDATE OF requests_per_minute, tokens_per_minute, concurrent ON rate_limits
FOR EACH ROW WHEN ((OLD.requests_per_minute, OLD.tokens_per_minute, OLD.concurrent) IS DISTINCT FROM
                   (NEW.requests_per_minute, NEW.tokens_per_minute, NEW.concurrent))
EXECUTE FUNCTION textgen_notify_budget();

-- Every server caches which limits a caller has.
DROP TRIGGER users_changed ON users;
CREATE TRIGGER users_changed
AFTER UPDATE OF id, email, password_hash, name, profile_url, photo_url, is_subscribed, stripe_id, secret,
    num_self_hosted_instances, suspended, is_admin, budget_id, balance_id, rate_id
ON users FOR EACH ROW
WHEN ((OLD.id, OLD.email, OLD.password_hash, OLD.name, OLD.profile_url, OLD.photo_url, OLD.is_subscribed,
       OLD.stripe_id, OLD.secret, OLD.num_self_hosted_instances, OLD.suspended, OLD.is_admin, OLD.budget_id,
       OLD.balance_id, OLD.rate_id)
      IS DISTINCT FROM
      (NEW.id, NEW.email, NEW.password_hash, NEW.name, NEW.profile_url, NEW.photo_url, NEW.is_subscribed,
       NEW.stripe_id, NEW.secret, NEW.num_self_hosted_instances, NEW.suspended, NEW.is_admin, NEW.budget_id,
       NEW.balance_id, NEW.rate_id))
EXECUTE FUNCTION textgen_notify_user();

DROP TRIGGER api_keys_changed ON api_keys;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys FOR EACH ROW
WHEN ((OLD.user_id, OLD.digest, OLD.expires, OLD.revoked, OLD.budget_id, OLD.models, OLD.permissions, OLD.addresses,
       OLD.rate_id)
      IS DISTINCT FROM
      (NEW.user_id, NEW.digest, NEW.expires, NEW.revoked, NEW.budget_id, NEW.models, NEW.permissions, NEW.addresses,
       NEW.rate_id))
EXECUTE FUNCTION textgen_notify_owner();
