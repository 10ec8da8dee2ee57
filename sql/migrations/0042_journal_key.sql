-- The key by which servers tell the records of their own journals from forged ones: 244 random bits.
ALTER TABLE installation ADD COLUMN journal_key bytea NOT NULL
    DEFAULT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');

-- Until when journals are replayed whose records have no code of that key, as older releases write them. They may run for
-- a while beside this one, if they have run on this database at all.
ALTER TABLE installation ADD COLUMN unsigned_journals_until timestamptz NOT NULL DEFAULT '-infinity';
UPDATE installation SET unsigned_journals_until = now() + interval '7 days' WHERE EXISTS (SELECT FROM users);
