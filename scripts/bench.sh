#!/usr/bin/env bash
# Runs a bench with our crate built as a release, over the dependencies that `./test` and `./demo` have built already
# (the development profile builds them optimised). Plain `cargo bench` works as well and takes long the first time.
#
#   scripts/bench.sh NAME [ARGS]      e.g. scripts/bench.sh debounce --keys 1000000
#   scripts/bench.sh build            builds every bench, and the program, and runs none
#
# NAME is a file of benches/; benches/README.md says what each one measures and what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${SLACKWATER_CACHE:-$HOME/.cache/slackwater}/target}
(($# >= 1)) || {
    printf 'usage: %s NAME [ARGS]\n' "$0" >&2
    exit 2
}
name=$1
shift

profile=profile.dev.package.slackwater
optimised=(
    --profile dev
    --config "$profile.opt-level=3"
    --config "$profile.debug-assertions=false"
    --config "$profile.overflow-checks=false"
    --config "$profile.codegen-units=4"
)
if [[ $name == build ]]; then
    exec cargo bench --locked "${optimised[@]}" --benches --no-run
fi
exec cargo bench --locked "${optimised[@]}" --bench "$name" -- "$@"
