-- Who is connected: connections by program and state, and the age of the oldest open transaction among them.
SELECT coalesce(nullif(application_name, ''), '(unnamed)') AS program,
       coalesce(state, '(unknown)') AS state,
       count(*) AS connections,
       count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting_for_a_lock,
       date_trunc('second', max(clock_timestamp() - xact_start)) AS oldest_transaction,
       date_trunc('second', max(clock_timestamp() - state_change)) AS longest_in_state
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
GROUP BY 1, 2
ORDER BY 1, 2;
