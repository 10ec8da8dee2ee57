-- Keys are deleted a month after they have ended.
CREATE INDEX api_keys_ended ON api_keys (least(revoked, expires)) WHERE revoked IS NOT NULL OR expires IS NOT NULL;
