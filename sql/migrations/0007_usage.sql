-- What is charged. Money is whole micro-dollars.

-- A journal of charges belongs to the database whose id it bears, also after a restore or a move to another machine.
CREATE TABLE installation (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    id      uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO installation DEFAULT VALUES;

-- What a model costs, in micro-dollars. The row 'default' is the price of every model that has none.
CREATE TABLE prices (
    model                  varchar PRIMARY KEY,
    prompt_per_million     bigint NOT NULL DEFAULT 0 CHECK (prompt_per_million BETWEEN 0 AND 1000000000000),
    completion_per_million bigint NOT NULL DEFAULT 0 CHECK (completion_per_million BETWEEN 0 AND 1000000000000),
    embedding_per_million  bigint NOT NULL DEFAULT 0 CHECK (embedding_per_million BETWEEN 0 AND 1000000000000),
    audio_per_second       bigint NOT NULL DEFAULT 0 CHECK (audio_per_second BETWEEN 0 AND 1000000000000),
    characters_per_million bigint NOT NULL DEFAULT 0 CHECK (characters_per_million BETWEEN 0 AND 1000000000000),
    per_request            bigint NOT NULL DEFAULT 0 CHECK (per_request BETWEEN 0 AND 1000000000000),
    updated                timestamptz NOT NULL DEFAULT now()
);
INSERT INTO prices (model, prompt_per_million, completion_per_million, embedding_per_million, audio_per_second,
                    characters_per_million, per_request)
VALUES ('default', 150000, 600000, 20000, 50, 15000000, 0);

-- The ledger. Its rows are never changed, and outlive the account: they are the books.
CREATE TABLE usage_events (
    created           timestamptz NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    embedding_tokens  bigint NOT NULL,
    audio_millis      bigint NOT NULL,
    characters        bigint NOT NULL,
    requests          bigint NOT NULL,
    cost_micros       bigint NOT NULL,
    latency_micros    bigint NOT NULL,
    id                varchar NOT NULL,
    user_id           varchar NOT NULL,
    key_id            varchar,
    server            varchar NOT NULL,
    route             varchar NOT NULL,
    model             varchar NOT NULL
) PARTITION BY RANGE (created);
CREATE INDEX usage_events_of_user ON usage_events (user_id, created);

-- Takes what falls into a month that has no partition, so that no charge is ever refused for the lack of one.
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;

-- What makes an id unique for ever: a unique key of a partitioned table must hold the partition's column, and a
-- request may be repeated in another month. `created` leads to the ledger's row.
CREATE TABLE charge_ids (
    id      varchar COLLATE "C" NOT NULL,
    created timestamptz NOT NULL,
    CONSTRAINT charge_ids_pkey PRIMARY KEY (id)
);

-- What each person used on each day (UTC).
CREATE TABLE usage_daily (
    user_id           varchar COLLATE "C" NOT NULL,
    day               date NOT NULL,
    server            varchar COLLATE "C" NOT NULL,
    route             varchar COLLATE "C" NOT NULL,
    model             varchar COLLATE "C" NOT NULL,
    key_id            varchar COLLATE "C" NOT NULL, -- empty when no key was used
    events            bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    embedding_tokens  bigint NOT NULL,
    audio_millis      bigint NOT NULL,
    characters        bigint NOT NULL,
    requests          bigint NOT NULL,
    cost_micros       bigint NOT NULL,
    CONSTRAINT usage_daily_pkey PRIMARY KEY (user_id, day, server, route, model, key_id)
) WITH (fillfactor = 70); -- room on each page for the next version of a row, so that no index is touched

-- `charges_monthly` are those of the month that begins here; once that is over, they are nothing. What an older system
-- counted is taken for this month's.
ALTER TABLE users
    ADD COLUMN charges_month date NOT NULL DEFAULT date_trunc('month', now() AT TIME ZONE 'UTC')::date,
    SET (fillfactor = 80);

-- Makes the partition of the month in which `day` lies, if it is not there, and takes over what the default partition
-- holds of it. Whether it was made. Attaching does not stop writers to other partitions.
CREATE FUNCTION textgen_make_usage_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    month_begins timestamptz := date_trunc('month', day::timestamp) AT TIME ZONE 'UTC';
    month_ends   timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    name         text := 'usage_events_' || to_char(day, 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE usage_events INCLUDING ALL)', name);
    LOCK TABLE usage_events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('WITH moved AS (DELETE FROM usage_events_default WHERE created >= %L AND created < %L RETURNING *)
        INSERT INTO %I SELECT * FROM moved', month_begins, month_ends, name);
    EXECUTE format('ALTER TABLE usage_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, month_begins, month_ends);
    RETURN true;
END $$;

SELECT textgen_make_usage_partition((date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date)
FROM generate_series(0, 2) AS n;
