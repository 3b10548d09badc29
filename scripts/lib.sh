# shellcheck shell=bash
# What setup, run and test share. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that takes long to make lives outside the tree, so that a fresh clone finds it again.
CACHE=${RCC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/redis-cluster-conformance}
LOGS=$CACHE/logs
mkdir -p "$LOGS"

export DEBIAN_FRONTEND=noninteractive
# Administration tools are outside an ordinary user's PATH on Debian, and what rustup installs outside that of a shell that
# read no profile.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

say() { printf '%s\n' "$*"; }

# die MESSAGE [NEXT STEP]
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    if [ $# -gt 1 ]; then printf '  next: %s\n' "$2" >&2; fi
    exit 3
}

# as_root COMMAND...: as it is for root, by sudo for others.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "'$1' needs root, and there is no sudo" "run this script as root, or install sudo"
    fi
}

ticker_pid=''
stop_ticker() {
    if [ -n "$ticker_pid" ]; then
        kill "$ticker_pid" 2>/dev/null || true
        wait "$ticker_pid" 2>/dev/null || true
        ticker_pid=''
    fi
}
trap stop_ticker EXIT

# logged TITLE DURATION LOG COMMAND...: runs COMMAND with all its output in LOG; says every 15 s that it is still at work,
# and on what (the last line of the log that starts like a heading). The command stays in the foreground, where Ctrl-C reaches it.
logged() {
    local title=$1 duration=$2 log=$3 start=$SECONDS rc=0
    shift 3
    say "- $title ($duration)"
    : >"$log"
    (
        # Nothing that may outlive this script holds its output or its lock.
        exec 9>&-
        while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            last=$(grep -aE '^(==|\+\+\+|Step [0-9])' "$log" | tail -n 1 | cut -c1-100) || true
            printf '    %4d s  %s\n' $((SECONDS - start)) "${last:-$title}"
        done
    ) </dev/null &
    ticker_pid=$!
    "$@" >>"$log" 2>&1 </dev/null || rc=$?
    stop_ticker
    if [ "$rc" != 0 ]; then
        {
            say "  failed after $((SECONDS - start)) s with exit code $rc; the end of $log:"
            tail -n 20 "$log" | sed 's/^/    | /'
        } >&2
        return "$rc"
    fi
    say "  done in $((SECONDS - start)) s"
}

# key FILE...: a hash of the files' names and contents.
key() {
    local file
    for file in "$@"; do
        printf '%s\n' "${file#"$ROOT"/}"
        cat "$file"
    done | sha256sum | cut -c1-16
}

# One place for all clones, and one profile for running and testing: the dependencies are compiled once.
use_cargo() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
    # What speeds up the next edit is of no use where there is none, and takes gigabytes.
    if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi
    cd "$ROOT" || die "there is no $ROOT"
}

# step TITLE COMMAND...: announces the command with the time since the script's start, and lets it talk.
step() {
    local title=$1 start=$SECONDS rc=0
    shift
    printf '\n== %4d s  %s\n' "$SECONDS" "$title"
    "$@" || rc=$?
    if [ "$rc" = 0 ]; then
        printf '== %4d s  done in %d s: %s\n' "$SECONDS" $((SECONDS - start)) "$title"
    else
        printf '== %4d s  FAILED after %d s with exit code %d: %s\n' "$SECONDS" $((SECONDS - start)) "$rc" "$title" >&2
    fi
    return "$rc"
}
