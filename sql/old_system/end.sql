DROP FUNCTION textgen_old_row(), textgen_old_begin(bigint), textgen_old_address(text), textgen_old_document(bigint),
    textgen_old_document(text), textgen_old_time(timestamp), textgen_old_time(timestamptz);
DROP SEQUENCE textgen_old_rows;
