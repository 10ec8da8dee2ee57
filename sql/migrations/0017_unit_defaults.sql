-- A charge names only the columns of units that it uses; the others are 0.
ALTER TABLE usage_events
    ALTER COLUMN prompt_tokens     SET DEFAULT 0,
    ALTER COLUMN completion_tokens SET DEFAULT 0,
    ALTER COLUMN embedding_tokens  SET DEFAULT 0,
    ALTER COLUMN audio_millis      SET DEFAULT 0,
    ALTER COLUMN characters        SET DEFAULT 0,
    ALTER COLUMN requests          SET DEFAULT 0;
ALTER TABLE usage_daily
    ALTER COLUMN prompt_tokens     SET DEFAULT 0,
    ALTER COLUMN completion_tokens SET DEFAULT 0,
    ALTER COLUMN embedding_tokens  SET DEFAULT 0,
    ALTER COLUMN audio_millis      SET DEFAULT 0,
    ALTER COLUMN characters        SET DEFAULT 0,
    ALTER COLUMN requests          SET DEFAULT 0;
