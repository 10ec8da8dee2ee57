-- A session that has planned the function's statements while the tables were empty would scan them for each account, and go
-- on to do so while they grow to thousands of rows.
ALTER FUNCTION textgen_close_usage SET enable_seqscan = off;
