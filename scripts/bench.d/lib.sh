# shellcheck shell=bash
# Shared by scripts/bench and scripts/attack: the database, the servers, runs of wrk, pairs of runs.

work=
database=
started=()

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- beginning and end

# prepare TOOLS EXAMPLE...: installs tools, builds textgen and examples, and makes a database
prepare() {
    local tools=$1 example examples=()
    shift
    for example; do examples+=(--example "$example"); done
    # shellcheck disable=SC2086 # several words
    scripts/install-tools $tools
    own_url=${DATABASE_URL:-$(scripts/postgres start)}
    release=${CARGO_TARGET_DIR:-target}/${BUILD:-release}
    case $release in */debug) ;; *) examples+=(--release) ;; esac
    cargo build --locked --bin textgen "${examples[@]}"
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    : >"$work/secrets"
    make_database
    if [ -n "${PEER:-}" ]; then
        # shellcheck disable=SC2153 # they are two
        curl -sf -o /dev/null -H "secret: $PEER_SECRET" "$PEER$PEER_USER" || fail "$PEER$PEER_USER does not answer"
        echo "$PEER_SECRET" >"$work/peer-secret"
        PEER_SECRETS=${PEER_SECRETS:-$work/peer-secrets}
        [ -e "$PEER_SECRETS" ] || seq -f 'peer-secret-%.0f' 0 $((USERS - 1)) >"$PEER_SECRETS"
    fi
}

# machine: what it runs on
machine() {
    echo "$(nproc 2>/dev/null || sysctl -n hw.ncpu) cores, load $(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown)"
}

clean_up() {
    trap - INT TERM
    local pid
    for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ -n "$database" ]; then
        sql "$own_url" "DROP DATABASE IF EXISTS $database WITH (FORCE)" || true
    fi
    [ -z "$work" ] || rm -rf "$work"
}

# sql URL STATEMENT
sql() { DATABASE_URL=$1 PGOPTIONS='-c client_min_messages=warning' scripts/postgres psql -XAtq -F' ' -v ON_ERROR_STOP=1 -c "$2"; }

# A separate database for this run, dropped at the end.
make_database() {
    sql "$own_url" "CREATE DATABASE textgen_bench_$$"
    database=textgen_bench_$$
    case $own_url in
        *://*) DATABASE_URL=$(sed -E "s|^([^:]*://[^/?]*)(/[^?]*)?|\1/$database|" <<<"$own_url") ;;
        *) DATABASE_URL="$own_url dbname=$database" ;;
    esac
    export DATABASE_URL
    unset DATABASE_LISTEN_URL
    "$release/textgen" migrate >"$work/migrate" 2>&1 || { cat "$work/migrate" >&2 && fail "the tables cannot be made"; }
}

# ---------------------------------------------------------------- servers and users

# serve [NAME=VALUE...] [ARGUMENT...]: runs the three servers; sets server, web and inference
serve() {
    local settings=() arguments=() word
    for word; do
        case $word in *=*) settings+=("$word") ;; *) arguments+=("$word") ;; esac
    done
    : >"$work/addresses"
    env -u INFERENCE_URL WEB_ADDR=127.0.0.1:0 INFERENCE_ADDR=127.0.0.1:0 AUDIO_ADDR=127.0.0.1:0 \
        JOURNAL_DIR="$work/journal" LOG_LEVEL="${LOG_LEVEL:-warn}" ${settings[@]+"${settings[@]}"} \
        "$release/textgen" serve ${arguments[@]+"${arguments[@]}"} >"$work/addresses" 2>"$work/log" &
    server=$!
    started+=("$server")
    for _ in $(seq 300); do
        web=$(sed -n 's/^web //p' "$work/addresses")
        inference=$(sed -n 's/^inference //p' "$work/addresses")
        if [ -n "$web" ] && curl -sf -o /dev/null "$web/readyz"; then return; fi
        sleep 0.1
    done
    cat "$work/log" >&2
    fail "the servers do not get ready"
}

unserve() {
    end "$server"
    local lines
    lines=$(grep -vc 'DEMO ENGINE' "$work/log") || return 0
    echo "  the servers said $lines lines, such as:"
    grep -v 'DEMO ENGINE' "$work/log" | head -n 3 | sed 's/^/    /'
}

# end PID: stops a program
end() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    local pid others=()
    for pid in ${started[@]+"${started[@]}"}; do [ "$pid" = "$1" ] || others+=("$pid"); done
    started=(${others[@]+"${others[@]}"})
}

# start_upstream: starts the local model server; sets upstream and upstream_server
start_upstream() {
    : >"$work/upstream"
    "$release/examples/upstream" 127.0.0.1:0 >"$work/upstream" &
    upstream_server=$!
    started+=("$upstream_server")
    for _ in $(seq 100); do
        upstream=$(cat "$work/upstream")
        if [ -n "$upstream" ]; then return; fi
        sleep 0.1
    done
    fail "the upstream does not start"
}

# users N: makes sure that there are N users; their secrets are in $work/secrets, the first one's in $work/secret
users() {
    local n
    for n in $(seq $(($(wc -l <"$work/secrets") + 1)) "$1"); do
        "$release/textgen" user create "bench-$n@example.invalid" 2>"$work/create" | sed -n 's/^secret //p' >>"$work/secrets"
    done
    [ "$(wc -l <"$work/secrets")" -ge "$1" ] || { cat "$work/create" >&2 && fail "users cannot be made"; }
    head -n 1 "$work/secrets" >"$work/secret"
}

# resident PID: "megabytes threads"; question marks where the system does not report them
resident() {
    awk '/^VmRSS/ { mb = int($2 / 1024) } /^Threads/ { n = $2 } END { print mb, n }' "/proc/$1/status" 2>/dev/null || echo '? ?'
}

# ---------------------------------------------------------------- runs

# measure URL CONNECTIONS: a run of wrk with SECRETS, METHOD and BODY; sets rate (a second), p50, p99 (us), good (replies)
measure() {
    local bad
    measured_url=$1
    wrk -t1 -c"$2" -d"${SECONDS_EACH}s" --timeout 10s -s scripts/bench.d/wrk.lua "$1" >"$work/wrk" || true
    read -r rate p50 p99 good bad <<<"$(sed -n 's/^bench //p' "$work/wrk")"
    if [ "${bad:-1}" != 0 ] || [ "$good" = 0 ]; then
        cat "$work/wrk" >&2
        fail "$1 answered with errors"
    fi
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# column FILE N: the median of a column
column() { awk -v n="$2" '{ print $n }' "$1" | median; }

# ratio FILE FILE: the median of the ratios of the first columns, pair by pair
ratio() { paste -d' ' "$1" "$2" | awk '{ n = NF / 2; printf "%.2f\n", $(n + 1) ? $1 / $(n + 1) : 0 }' | median; }

# compare NAME CONNECTIONS OURS LABEL OTHER: alternates two measuring functions; the second is skipped if it is the peer's
# and there is no peer
compare() {
    local name=$1 connections=$2 ours=$3 label=$4 other=$5
    [ "$label" != peer ] || [ -n "$PEER" ] || other=
    : >"$work/ours"
    : >"$work/other"
    for _ in $(seq "$ROUNDS"); do
        "$ours" "$connections"
        echo "$rate $p50 $p99" >>"$work/ours"
        if [ -n "$other" ]; then
            "$other" "$connections"
            echo "$rate $p50 $p99" >>"$work/other"
        fi
    done
    printf '  %-26s %4s connections %8s/s  p50 %7s us  p99 %7s us' "$name" "$connections" \
        "$(column "$work/ours" 1)" "$(column "$work/ours" 2)" "$(column "$work/ours" 3)"
    if [ -n "$other" ]; then
        printf '   %s %8s/s  p50 %7s us  p99 %7s us   x %s' "$label" "$(column "$work/other" 1)" \
            "$(column "$work/other" 2)" "$(column "$work/other" 3)" "$(ratio "$work/ours" "$work/other")"
    fi
    echo
}

# gather ADDRESS COUNT KIND [MORE]: opens a crowd of connections; sets crowd
gather() {
    : >"$work/crowd"
    "$release/examples/crowd" "$1" "$2" 600 "${@:3}" >"$work/crowd" &
    crowd=$!
    started+=("$crowd")
    until grep -q ready "$work/crowd"; do
        kill -0 "$crowd" 2>/dev/null || fail "the crowd ended before it was whole"
        sleep 0.1
    done
}

# Waits until the crowd's first requests are done: three quick replies in a row, whatever they are.
calm() {
    local quick=0
    sleep "$SETTLE"
    for _ in $(seq 100); do
        if curl -s -o /dev/null -m 0.05 "$measured_url"; then quick=$((quick + 1)); else quick=0; fi
        [ "$quick" -lt 3 ] || return 0
        sleep 0.1
    done
}

# alternate NAME MEASURE PID ADDRESS COUNT KIND [MORE]: pairs of runs without a crowd and with it
alternate() {
    local name=$1 measured=$2 pid=$3
    shift 3
    : >"$work/without"
    : >"$work/with"
    : >"$work/size"
    : >"$work/size-without"
    : >"$work/fates"
    for _ in $(seq "$ROUNDS"); do
        "$measured" 16
        echo "$rate $p99" >>"$work/without"
        [ -z "$pid" ] || resident "$pid" >>"$work/size-without"
        gather "$@"
        calm
        "$measured" 16
        echo "$rate $p99" >>"$work/with"
        [ -z "$pid" ] || resident "$pid" >>"$work/size"
        end "$crowd"
        tail -n 1 "$work/crowd" >>"$work/fates"
        calm
    done
    printf '  %-26s %5s   without %8s/s  p99 %7s us   with %8s/s  p99 %7s us   x %s' "$name" "$2" \
        "$(column "$work/without" 1)" "$(column "$work/without" 2)" "$(column "$work/with" 1)" \
        "$(column "$work/with" 2)" "$(ratio "$work/with" "$work/without")"
    [ -z "$pid" ] || printf '   %4s -> %4s MB resident, %4s -> %4s threads' "$(column "$work/size-without" 1)" \
        "$(column "$work/size" 1)" "$(column "$work/size-without" 2)" "$(column "$work/size" 2)"
    echo
    # closed N of COUNT …, or: whole N broken N
    awk '/^closed/ && $2 { closed += $2; all += $4 } /^whole/ { whole += $2; broken += $4 }
        END {
            if (closed) printf "  %-26s %d of %d were closed while the others were measured\n", "", closed, all
            if (whole || broken) printf "  %-26s %d streams came whole, %d broke\n", "", whole, broken
        }' "$work/fates"
}
