#!/bin/sh
# Cargo's target runner for the end-to-end tests: e2e-runner.sh TEST-PROGRAM ARGS
# Runs a copy of the program as the user `gourd-test` (or as the caller, who then isn't root) with a clean
# environment, from a directory that this user can read: the checkout may lie in a closed home.
set -eu
stage=${GOURD_E2E_STAGE:?the end-to-end tests are started by ./dev test}
program=$stage/bin/$(basename "$1")
if ! [ -f "$program" ]; then
    cp "$1" "$program.$$"
    chmod 755 "$program.$$"
    mv "$program.$$" "$program"
fi
shift

# The tests may read which test they are and nothing else of the caller's environment.
set -- "$program" "$@"
for name in RUST_BACKTRACE RUST_LOG NEXTEST NEXTEST_RUN_ID NEXTEST_EXECUTION_MODE GOURD_E2E_DRIVER GOURD_E2E_LOAD; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$name=$value" "$@"
done
set -- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    HOME="$stage/home" TMPDIR="$stage/tmp" GOURD_BIN_DIR="$stage/bin" GOURD_TEST_CACHE="$GOURD_TEST_CACHE" "$@"
cd "$stage"
if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid gourd-test --regid gourd-test --clear-groups "$@"
fi
exec "$@"
