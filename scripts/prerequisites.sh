#!/usr/bin/env bash
# Installs what slackwater's build needs (with the argument `test`: its tests too) and this machine lacks, by apt.
# Does nothing where all of it is there. Rust itself and the Spanner emulator are not installed here.
set -euo pipefail

die() {
    printf 'prerequisites: %s\n' "$*" >&2
    exit 1
}

missing=()

# need COMMAND PACKAGE
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

command -v cargo >/dev/null || die "Rust is missing: install it with rustup (https://rustup.rs)"

need gcc gcc
need g++ g++
need make make
need pkg-config pkg-config
# bindgen, for RocksDB's header
need clang clang
if [[ -z ${LIBCLANG_PATH:-} ]] && ! compgen -G '/usr/lib*/llvm-*/lib/libclang.so*' >/dev/null &&
    ! compgen -G '/usr/lib*/libclang.so*' >/dev/null; then
    missing+=(libclang-dev)
fi

case ${1:-} in
'') ;;
test)
    for component in rustfmt clippy; do
        cargo "${component#rust}" --version >/dev/null 2>&1 || die "$component is missing: rustup component add $component"
    done
    # Apache Kafka, the schema registry, OpenSearch, and their jars from Maven Central; the peer in benches/peers is compiled
    need java openjdk-17-jre-headless
    need javac openjdk-17-jdk-headless
    need mvn maven
    # promtool comes with the server
    need promtool prometheus
    need shellcheck shellcheck
    # the other test servers, and their certificates
    need redis-server redis-server
    need openssl openssl
    command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import aiosmtpd' 2>/dev/null && break
    done || missing+=(python3-aiosmtpd)
    ;;
*) die "usage: $0 [test]" ;;
esac

((${#missing[@]})) || exit 0

command -v apt-get >/dev/null || die "missing: ${missing[*]} (Debian's names); install them and try again"
((EUID == 0)) || die "missing: ${missing[*]}; as root: apt-get install ${missing[*]}"

# A package may bring a service (prometheus, redis-server, postgresql): it must not start.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

printf 'prerequisites: installing %s\n' "${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=600 -qq)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null </dev/null
