-- Whether no reply is kept under a user's key for a charge within a day of this time. It is for charges that may be of
-- another day than the reply to look for, where no unique index compares them. Those with one key come one after the
-- other: the lock is held until the transaction ends, and what is looked up after it was taken includes what the last holder
-- has committed.
CREATE FUNCTION textgen_may_keep(of_user varchar, of_key varchar, at timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(of_user || chr(31) || of_key, 0));
    RETURN NOT EXISTS (SELECT FROM kept_replies k WHERE k.user_id = of_user AND k.key = of_key
        AND k.created > at - interval '1 day' AND k.created < at + interval '1 day');
END $$;
