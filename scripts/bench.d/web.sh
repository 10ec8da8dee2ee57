# shellcheck shell=bash
# The sections about quick requests: requests, crowds, cache.

our_user() { SECRETS=$work/secret measure "$web/api/current-user" "$1"; }
our_document() { SECRETS=$work/secret measure "$web/api/docs/get?id=$document" "$1"; }
peer_user() { SECRETS=$work/peer-secret measure "$PEER$PEER_USER" "$1"; }
peer_document() { SECRETS=$work/peer-secret measure "$PEER$PEER_DOCUMENT" "$1"; }

section_requests() {
    local connections text
    users 1
    serve
    text=$(head -c 1024 /dev/zero | tr '\0' x)
    document=$(curl -sf -H "secret: $(cat "$work/secret")" -d "{\"title\":\"title\",\"content\":\"$text\"}" \
        "$web/api/docs/save" | sed 's/.*"id":"\([^"]*\)".*/\1/')
    SECONDS_EACH=1 our_user 16 # warm
    for connections in $CONNECTIONS; do compare "cached user" "$connections" our_user peer peer_user; done
    for connections in $CONNECTIONS; do compare "document by id" "$connections" our_document peer peer_document; done
    unserve
}

section_crowds() {
    local address peer=${PEER#http://} large=/openapi.json
    users 1
    serve
    address=${web#http://}
    SECONDS_EACH=1 our_user 16 # warm
    # The slow connections must not reach their deadline before the run ends; alternate reports if they do.
    surround "idle connections" "$IDLE" idle
    surround "slow heads" "$SLOW" head
    surround "slow bodies" "$SLOW" body
    surround "clients that never read" "$SLOW" deaf "$large"
    [ "$DEADLINES" = 0 ] || deadlines
    unserve
}

# surround NAME COUNT KIND [PATH]
surround() {
    alternate "$1" our_user "$server" "$address" "${@:2}"
    [ -z "$PEER" ] || alternate "  peer" peer_user "$PEER_PID" "$peer" "$2" "$3" "$PEER_USER"
}

# Crowds of all slow kinds at once, for longer than the server allows.
deadlines() {
    local kind name longest=50 pids=()
    for kind in head body deaf; do
        "$release/examples/crowd" "$address" "$SLOW" "$longest" "$kind" "$large" >"$work/deadline-$kind" &
        pids+=($!)
        [ -z "$PEER" ] || {
            "$release/examples/crowd" "$peer" "$SLOW" "$longest" "$kind" "$PEER_USER" >"$work/deadline-peer-$kind" &
            pids+=($!)
        }
    done
    started+=("${pids[@]}")
    for _ in "${pids[@]}"; do
        wait "${pids[0]}" || fail "a crowd failed"
        end "${pids[0]}"
        pids=("${pids[@]:1}")
    done
    for kind in head body deaf; do
        case $kind in
            head) name="slow heads, 10 s" ;;
            body) name="slow bodies, 30 s" ;;
            deaf) name="unread replies, 30 s" ;;
        esac
        fate "$name" "$work/deadline-$kind"
        [ -z "$PEER" ] || fate "  peer" "$work/deadline-peer-$kind"
    done
}

# fate NAME FILE
fate() {
    awk -v name="$1" -v longest="$longest" '/^closed/ {
        printf "  %-26s %5d of %5d closed", name, $2, $4
        if ($2) printf ", the first %s s after it was opened, the last %s s\n", $6, $8
        else printf " within %d s\n", longest
    }' "$2"
}

section_cache() {
    cargo test --release --locked --lib --quiet -- --ignored --nocapture --exact auth::measure_tests::cache >"$work/cache" ||
        { cat "$work/cache" >&2 && fail "the cache cannot be measured"; }
    sed -n 's/^cache: /  /p' "$work/cache"
}
