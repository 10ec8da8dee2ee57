# shellcheck shell=bash
# The sections about models and charges: charges, keys, limits, upstream, latency, streams.

chat='{"model":"demo","max_tokens":4,"messages":[{"role":"user","content":"Hello"}]}'
streamed='{"model":"chunks-20","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
completions=/v1/chat/completions

# charge_with SECRETS BODY URL CONNECTIONS: measures, and counts the expected charges
charge_with() {
    SECRETS=$1 METHOD=POST BODY=$2 measure "$3" "$4"
    replies=$((replies + good))
    cut=$((cut + $4))
}
our_charges() { charge_with "$work/secrets" "$chat" "$inference$completions" "$1"; }
our_hot_charges() { charge_with "$work/secret" "$chat" "$inference$completions" "$1"; }
our_streams() { charge_with "$work/secret" "$streamed" "$inference$completions" "$1"; }
upstream_streams() { SECRETS=$work/secret METHOD=POST BODY=$streamed measure "$upstream$completions" "$1"; }
peer_charges() { SECRETS=$PEER_SECRETS METHOD=POST measure "$PEER$PEER_CHARGE" "$1"; }
peer_hot_charges() { SECRETS=$work/peer-secret METHOD=POST measure "$PEER$PEER_CHARGE" "$1"; }

our_limited_charges() { charge_with "$work/limited-secrets" "$chat" "$inference$completions" "$1"; }
peer_reserved() { SECRETS=$PEER_SECRETS METHOD=POST measure "$PEER$PEER_RESERVED" "$1"; }

our_keyed_charges() { IDEMPOTENCY=new our_charges "$1"; }
our_repeats() { SECRETS=$work/secrets METHOD=POST BODY=$chat IDEMPOTENCY=repeated measure "$inference$completions" "$1"; }

# The number of rows in the ledger, once the requests that wrk abandoned have been charged too.
rows() {
    local before=-1 now
    now=$(sql "$DATABASE_URL" 'SELECT count(*) FROM usage_events')
    until [ "$now" = "$before" ]; do
        sleep 0.5
        before=$now
        now=$(sql "$DATABASE_URL" 'SELECT count(*) FROM usage_events')
    done
    echo "$now"
}

open_books() {
    replies=0
    cut=0
    rows_before=$(rows)
}

# Each reply must have a row. Requests in flight when wrk stopped may have one too, as wrk did not count their replies.
check_books() {
    local more sums
    more=$(($(rows) - rows_before - replies))
    printf '  %-26s %s replies counted, %s rows more than that; %s requests were cut: ' "the books" "$replies" "$more" "$cut"
    if [ "$more" -lt 0 ] || [ "$more" -gt "$cut" ]; then
        echo "WRONG"
        fail "the ledger is not exact"
    fi
    sums=$(sql "$DATABASE_URL" "SELECT
        (SELECT coalesce(sum(cost_micros) * 1000000 + sum(cost_picos), 0) FROM usage_events),
        (SELECT coalesce(sum(cost_micros) * 1000000 + sum(cost_picos), 0) FROM usage_daily),
        (SELECT coalesce(sum(charges_monthly) * 1000000 + sum(charges_picos), 0) FROM users)")
    [ "$(tr ' ' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ] || fail "ledger, days and users do not add up to the same: $sums"
    echo "exact; ledger, days and users all add up to ${sums%% *} picodollars"
}

# serve_charges ARGUMENT: serves USERS users and a few requests, from which the books are opened
serve_charges() {
    users "$USERS"
    serve "$1"
    SECONDS_EACH=1 SECRETS=$work/secrets METHOD=POST BODY=$chat measure "$inference$completions" 16 # warm
    open_books
}

section_charges() {
    local connections
    serve_charges --demo-engine
    for connections in $CHARGE_CONNECTIONS; do
        compare "charged chat, $USERS users" "$connections" our_charges peer peer_charges
    done
    for connections in $CHARGE_CONNECTIONS; do
        compare "charged chat, one user" "$connections" our_hot_charges peer peer_hot_charges
    done
    for connections in $CHARGE_CONNECTIONS; do
        compare "one user beside $USERS" "$connections" our_hot_charges "$USERS" our_charges
    done
    check_books
    unserve
}

section_keys() {
    local connections
    serve_charges --demo-engine
    for connections in $CHARGE_CONNECTIONS; do
        compare "with an Idempotency-Key" "$connections" our_keyed_charges without our_charges
    done
    check_books
    # One after the other, as the same key at the same time is a conflict.
    while read -r secret; do
        curl -sf -o /dev/null -H "secret: $secret" -H 'Content-Type: application/json' -H 'Idempotency-Key: repeated' \
            -d "$chat" "$inference$completions" || fail "the first request with a key fails"
    done <"$work/secrets"
    open_books
    for connections in $CHARGE_CONNECTIONS; do
        compare "a repeat: the kept reply" "$connections" our_repeats "new" our_charges
    done
    check_books
    unserve
}

# limited_users N: makes N accounts with keys, both limited so that nothing is refused; the keys' secrets are in
# $work/limited-secrets
limited_users() {
    local n account most=1000000000
    : >"$work/limited-secrets"
    for n in $(seq "$1"); do
        account=bench-limited-$n@example.invalid
        "$release/textgen" user create "$account" 2>"$work/create" | sed -n 's/^secret //p' >"$work/account-secret"
        "$release/textgen" limit set "$account" --budget "$most" --requests-per-minute "$most" \
            --tokens-per-minute "$most" --concurrent 10000 >"$work/create" 2>&1 || { cat "$work/create" >&2 && fail "no limits can be set"; }
        curl -sf -H "secret: $(cat "$work/account-secret")" -H 'Content-Type: application/json' -d "{\"name\":\"limited\",
            \"budget\":{\"limit_micros\":${most}000,\"window\":\"month\"}, \"rate\":{\"requests_per_minute\":$most,
            \"tokens_per_minute\":$most,\"concurrent\":10000}}" "$web/api/keys" >"$work/key"
        # The reply does not end its line.
        sed 's/.*"secret":"\([^"]*\)".*/\1/' "$work/key" >>"$work/limited-secrets"
        echo >>"$work/limited-secrets"
    done
    [ "$(wc -l <"$work/limited-secrets")" = "$1" ] || fail "limited keys cannot be made"
}

section_limits() {
    local connections
    serve_charges --demo-engine
    limited_users "$USERS"
    SECONDS_EACH=2 our_limited_charges 16 # the first leases
    for connections in $CHARGE_CONNECTIONS; do
        compare "with all limits" "$connections" our_limited_charges without our_charges
    done
    [ -z "$PEER" ] || for connections in $CHARGE_CONNECTIONS; do
        compare "with all limits" "$connections" our_limited_charges peer peer_reserved
    done
    check_books
    unserve
}

section_upstream() {
    local connections
    start_upstream
    serve_charges "INFERENCE_URL=$upstream"
    for connections in $CHARGE_CONNECTIONS; do
        compare "chat of an upstream" "$connections" our_charges peer peer_charges
    done
    check_books
    unserve
    end "$upstream_server"
}

section_latency() {
    local pace=("$release/examples/pace" "$RATE" 16 "$SECONDS_EACH") kind
    users "$USERS"
    sql "$DATABASE_URL" 'SELECT id FROM users' >"$work/user-ids"
    start_upstream
    serve "INFERENCE_URL=$upstream"
    for kind in direct through charge commit; do : >"$work/pace-$kind"; done
    "$release/examples/pace" "$RATE" 16 1 request "$inference$completions" "$work/secrets" "$chat" >/dev/null # warm
    ! command -v pgbench >/dev/null || make_commits
    for _ in $(seq "$ROUNDS"); do
        "${pace[@]}" request "$upstream$completions" "$work/secrets" "$chat" >>"$work/pace-direct"
        "${pace[@]}" request "$inference$completions" "$work/secrets" "$chat" >>"$work/pace-through"
        "${pace[@]}" charge "$work/user-ids" "$work/journal-of-pace" >>"$work/pace-charge"
        ! command -v pgbench >/dev/null || commits >>"$work/pace-commit"
    done
    paste -d' ' "$work/pace-through" "$work/pace-direct" |
        awk '{ print $1 - $6, $2 - $7, $3 - $8, $4 - $9, $5 + $10 }' >"$work/pace-added"
    printf '  %-42s %7s %7s %7s %8s %7s\n' "$RATE a second over 16 connections, us" p50 p90 p99 max errors
    paced "the upstream itself" direct
    paced "through textgen" through
    paced "added" added
    paced "of that: a charge, made durable" charge
    [ ! -s "$work/pace-commit" ] || paced "to compare: a transaction of PostgreSQL" commit
    unserve
    end "$upstream_server"
}

# paced NAME KIND
paced() {
    local file=$work/pace-$2
    printf '  %-42s %7s %7s %7s %8s %7s\n' "$1" "$(column "$file" 1)" "$(column "$file" 2)" "$(column "$file" 3)" \
        "$(column "$file" 4)" "$(column "$file" 5)"
}

make_commits() {
    sql "$DATABASE_URL" "CREATE TABLE bench_ledger (id bigserial PRIMARY KEY, payer int NOT NULL, cost bigint NOT NULL);
        CREATE TABLE bench_payers (id int PRIMARY KEY, total bigint NOT NULL);
        INSERT INTO bench_payers SELECT n, 0 FROM generate_series(1, $USERS) n"
    cat >"$work/commit.sql" <<SQL
\\set payer random(1, $USERS)
BEGIN;
INSERT INTO bench_ledger (payer, cost) VALUES (:payer, 3);
UPDATE bench_payers SET total = total + 3 WHERE id = :payer;
COMMIT;
SQL
}

# The same line as pace prints, for transactions by pgbench at the same rate, also measured from when they were due.
commits() {
    rm -f "$work"/pgbench.*
    pgbench -n -M prepared -c 16 -j 2 --rate="$RATE" -T "$SECONDS_EACH" -f "$work/commit.sql" \
        --log --log-prefix="$work/pgbench" "$DATABASE_URL" >/dev/null 2>&1 || fail "pgbench fails"
    cat "$work"/pgbench.* | awk '{ print $3 }' | sort -n |
        awk '{ v[NR] = $1 } END { print v[int(NR / 2) + 1], v[int(NR * 0.9) + 1], v[int(NR * 0.99) + 1], v[NR], 0 }'
}

section_streams() {
    local chunks=$(((SETTLE + SECONDS_EACH + 4) * 1000 / EVERY))
    users 1
    start_upstream
    serve "INFERENCE_URL=$upstream"
    SECONDS_EACH=1 our_user 16 # warm
    open_books
    compare "streams of 20 chunks" 16 our_streams upstream upstream_streams
    check_books
    SECRET=$(cat "$work/secret")
    export SECRET
    open_books
    alternate "slow streams" our_user "$server" "${inference#http://}" "$STREAMS" stream "chunks-$chunks-every-$EVERY"
    check_streams
    unserve
    end "$upstream_server"
}

# No stream is cut off, so the number of rows equals the number of complete streams.
check_streams() {
    local whole more
    whole=$(awk '/^whole/ { n += $2 } END { print n + 0 }' "$work/fates")
    more=$(($(rows) - rows_before))
    printf '  %-26s %s slow streams came whole, %s rows: ' "the books" "$whole" "$more"
    [ "$whole" = "$more" ] || { echo WRONG && fail "the ledger is not exact"; }
    echo exact
}
