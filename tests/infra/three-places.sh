#!/bin/sh
# Runs the tests that read the tree, start processes or write files in three places, on what is committed; root:
#   1. a clone whose path has a space and an a-umlaut, with leftovers: of make demo, and a virtual environment of peers
#   2. a locale whose encoding is Latin-1
#   3. another user than root, without a home, by one process, in reverse order
# sh tests/infra/three-places.sh [TEST...]
set -u
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
at=$(mktemp -d)
place="$at/a ä"
failed=0
trap 'rm -rf "$at"' EXIT
[ $# -gt 0 ] || set -- tests/test_*.py tests/api tests/benchmarks tests/cli tests/data_prep/init tests/data_prep/output \
    tests/data_prep/sources tests/days tests/golden tests/launch tests/mutations tests/recipes tests/reports tests/runs \
    tests/runtime tests/storage tests/text tests/training/test_resume.py

run() { # words in front of python..., then options of pytest after --
    title=$1
    shift
    printf '\n== %s\n' "$title"
    "$@" || { failed=1; printf '== FAILED: %s\n' "$title"; }
}

git clone -q "$root" "$place" && cd "$place" || exit 1
export PLE_REC_DATA="${PLE_REC_DATA:-$root/../shared/data}" OMP_NUM_THREADS=1
make demo >"$at/demo.log" 2>&1 || { tail -n 20 "$at/demo.log"; exit 1; }
.venv/bin/python -m venv benchmarks/peers/.venv
printf '# caf\351\n' >benchmarks/peers/.venv/latin1.py # as some packages have them
PATH="$place/.venv/bin:$PATH"
fast="python -m pytest -q --hypothesis-profile=ci -p no:cacheprovider"

# shellcheck disable=SC2086 # $fast is several words
run "a path with a space, and leftovers" $fast -n 2 --dist loadfile "$@"

localedef -i en_US -f ISO-8859-1 "$at/en_US.ISO-8859-1"
# shellcheck disable=SC2086
run "Latin-1" env LOCPATH="$at" LC_ALL=en_US.ISO-8859-1 PYTHONUTF8=0 $fast -n 2 --dist loadfile "$@"

chmod 755 "$at" && chown -R 65534:65534 "$place"
# shellcheck disable=SC2086
run "another user, in reverse order" setpriv --reuid=65534 --regid=65534 --clear-groups \
    env HOME=/proc/none PYTHONPATH=tests/infra $fast -p reverse_order -n 1 "$@"
exit $failed
