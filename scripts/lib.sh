# shellcheck shell=bash
# What setup, images, run and test share. Sourced, never run.

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

crate_version() { sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1; }

# host: what the compiler makes programs for.
host() { rustc -vV | sed -n 's/^host: //p'; }

# commit: that of the tree; nothing where it differs from it, or is none of git.
commit() {
    if [ -z "$(git -C "$ROOT" status --porcelain 2>&1)" ]; then git -C "$ROOT" rev-parse HEAD; fi
}

# build_static PROFILE: builds the program with everything in it, glibc too (libc6-dev has it), so that it runs on any Linux of
# this machine's kind; sets $built to its path.
build_static() {
    local profile=$1 folder=$1 triple names commit
    triple=$(host)
    [[ $triple == *-linux-gnu ]] || die "a static program is made with glibc on Linux, and this is $triple"
    if [ "$profile" = dev ]; then folder=debug; fi
    names=$CARGO_TARGET_DIR/names-$(key "$ROOT/scripts/names.c").o
    mkdir -p "$CARGO_TARGET_DIR" && cc -O2 -Wall -Wextra -c "$ROOT/scripts/names.c" -o "$names" || return
    commit=$(commit)
    # How the program is linked is all that differs: its libraries are those of any other build.
    env ${commit:+RCC_COMMIT="$commit"} cargo rustc --locked --profile "$profile" --bin redis-cluster-conformance -- \
        -C target-feature=+crt-static -C "link-arg=$names" || return
    # shellcheck disable=SC2034 # for the script that sources this
    built=$CARGO_TARGET_DIR/$folder/redis-cluster-conformance
}

# check_alone PROGRAM: it names no library, and runs and finds a name of /etc/hosts where there is nothing but itself and that
# file, and an nsswitch.conf that names a library.
check_alone() {
    local program=$1 root said problem='' enter=(chroot)
    if LC_ALL=C readelf -dlW "$program" | grep -E 'INTERP|\(NEEDED\)'; then
        die "$program is not static: it names the loader and libraries above" "build it with scripts/release, without --program"
    fi
    root=$(mktemp -d)
    mkdir "$root/etc"
    cp "$program" "$root/program"
    echo "127.0.0.1 server.test" >"$root/etc/hosts"
    echo "hosts: other" >"$root/etc/nsswitch.conf"
    if [ "$(id -u)" != 0 ]; then enter=(unshare --map-root-user chroot); fi
    alone() { said=$(env -i "PATH=$PATH" "${enter[@]}" "$root" /program "$@" 2>&1); }
    if ! alone --version || ! alone list SLOT-01; then
        problem="does not run alone: $said"
    else
        # Nobody listens there: the address in the answer is what shows that the name was found.
        alone run SLOT-01 --target addresses --masters 1 --replicas 0 --addresses server.test:1 --out /out || true
        [[ $said == *127.0.0.1:1* ]] || problem="does not find names (scripts/names.c): $said"
    fi
    rm -rf "$root"
    [ -z "$problem" ] || die "$program $problem"
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

# ---------------------------------------------------------------- Debian packages

mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        printf '%s\n' "${DEBIAN_MIRROR%/}"
        return
    fi
    local uri
    # The archive that apt uses here for the main suite; not the ones of security updates or of third parties.
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="${DEBIAN_SUITE:-bookworm}" '$1 ~ /^https?:/ && ($2 == suite || $3 == suite) && $1 ~ /debian\/?$/ { print $1; exit }')
    uri=${uri:-http://deb.debian.org/debian}
    printf '%s\n' "${uri%/}"
}

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# On Debian a server's package starts its daemon. The tests start servers of their own, on ports of their own: a
# redis-server on 6379 would only be in the way. This is how Debian lets an administrator say so.
without_daemons() {
    local policy=/usr/sbin/policy-rc.d rc=0
    if [ -e $policy ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod +x $policy
    "$@" || rc=$?
    as_root rm -f $policy
    return $rc
}

apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

install_packages() { # TITLE DURATION PACKAGE...
    local title=$1 duration=$2 package missing=()
    shift 2
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "no apt-get here: the set-up knows Debian 12 only" "install by hand: ${missing[*]}"
    if [ -z "${apt_updated:-}" ]; then
        # A third party's source that does not answer is no reason to stop: apt-get install says whether something lacks.
        logged "reading Debian's package lists" "a few seconds" "$LOGS/apt-update.log" as_root apt-get update -q ||
            say "  went on with what could be read"
        apt_updated=1
    fi
    logged "installing $title: ${missing[*]}" "$duration" "$LOGS/apt-install.log" without_daemons apt_install "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]}" "see $LOGS/apt-install.log; try 'apt-get install ${missing[*]}' by hand"
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" redis-server "* ]]; then
        as_root systemctl disable --quiet redis-server
    fi
}

# apt_elsewhere SUITES...: makes apt options in $apt_options that read those archives and leave the host's sources alone.
apt_elsewhere() {
    local dir=$CACHE/apt
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    printf '%s\n' "$@" >"$dir/sources.list"
    apt_options=(-q -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$dir/lists"
        -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
    apt-get "${apt_options[@]}" update
}

# ---------------------------------------------------------------- images

# The label by which an image tells what it was made from.
LABEL=redis-cluster-conformance.key

docker_answers() { timeout 20 docker info >/dev/null 2>&1; }

# Steps that run under "logged ... || die" are chained by &&: bash does not apply "set -e" inside them.

image_present() { docker image inspect "$1" >/dev/null 2>&1; }
image_key() { docker image inspect -f "{{index .Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null || true; }

# Can the image be pulled? Pulls it if so. A registry that does not answer must not cost minutes: the manifest has to come
# within 20 s (then the layers may take their time).
pull() {
    local image=$1 log=$LOGS/pull.log pid
    : >"$log"
    docker pull "$image" >"$log" 2>&1 </dev/null 9>&- &
    pid=$!
    for _ in {1..80}; do
        if ! kill -0 "$pid" 2>/dev/null || grep -q 'Pulling from' "$log"; then break; fi
        sleep 0.25
    done
    if kill -0 "$pid" 2>/dev/null; then
        if grep -q 'Pulling from' "$log"; then say "  pulling ${image%@*} (minutes, by the line's speed)"; else kill "$pid"; fi
    fi
    wait "$pid" 2>/dev/null
}

# from_cache IMAGE KEY FILE: an image whose tar is in the cache; Docker's own store may have been emptied since.
from_cache() {
    local image=$1 want=$2 file=$3
    [ -e "$file" ] || return 1
    logged "loading $image from the cache" "up to 30 s" "$LOGS/load.log" docker load -i "$file" || return 1
    [ "$(image_key "$image")" = "$want" ]
}

# keep IMAGE FILE: saved under another name first, so that a killed save leaves no half file behind.
keep() {
    docker save -o "$2.new" "$1" && mv "$2.new" "$2"
}

build_base() { # SUITE IMAGE
    local new=$CACHE/base.new option value options=()
    # Whether a mirror may be behind is for this machine's apt to say; the suites that still move are soon "expired" there.
    for option in Acquire::Check-Valid-Until Acquire::Check-Date; do
        value=$(apt-config dump --format '%v' "$option")
        if [ -n "$value" ]; then options+=("--aptopt=$option \"$value\""); fi
    done
    # No documentation and no translations: nothing here reads them.
    mmdebstrap --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        "${options[@]}" --format=tar "$1" "$new" "deb $(mirror) $1 main" &&
        docker import "$new" "$2" &&
        rm -f "$new" &&
        keep "$2" "$CACHE/base-$1.tar"
}

# set_up_base SUITE: sets $base to the image that others start from: Debian's own where it can be had, else one made by
# mmdebstrap.
set_up_base() {
    local suite=$1
    base=debian:$suite-slim
    if image_present "$base"; then return; fi
    if [ "${no_registry:-}" = '' ] && pull "$base"; then return; fi
    no_registry=1
    base=redis-cluster-conformance/debian:$suite
    if image_present "$base"; then return; fi
    if [ -e "$CACHE/base-$suite.tar" ] && docker load -q -i "$CACHE/base-$suite.tar" >/dev/null 2>&1; then return; fi
    install_packages "mmdebstrap" "10 s" mmdebstrap
    logged "a minimal Debian $suite as base image" "20 s" "$LOGS/base.log" build_base "$suite" "$base" ||
        die "the base image could not be built" "see $LOGS/base.log"
}

# one_at_a_time: two that make the same thing would only get in each other's way. Until the script ends.
one_at_a_time() {
    exec 9>"$CACHE/setup.lock"
    if ! flock -n 9; then
        say "- waiting for another scripts/setup or scripts/images to end"
        flock 9
    fi
}
