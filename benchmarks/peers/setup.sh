#!/bin/sh
# Makes benchmarks/peers/.venv for the libraries that we are compared with: sh benchmarks/peers/setup.sh, after make setup.
#   PYTHON=COMMAND    the interpreter; default: that of .venv
# A stamp holds what was installed, so a second run installs nothing and needs no network.
set -eu
cd "$(dirname "$0")/../.."
folder=benchmarks/peers
venv=$folder/.venv
log=$venv/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONHOME PYTHONPATH PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_PREFIX PIP_USER || true

refuse() { printf 'bench-peers setup: %s\n' "$1" >&2; exit 2; }

lock="$PWD ${PYTHON:-} $(cksum <$folder/requirements.txt)"
if [ -f $venv/.lock ] && [ "$(cat $venv/.lock)" = "$lock" ]; then exit 0; fi

python=${PYTHON:-.venv/bin/python}
"$python" --version >/dev/null 2>&1 || refuse "$python does not answer; the peers take the interpreter of .venv. Fix: run make setup, or name one: make bench-peers PYTHON=/path/to/python3.11"
rm -rf $venv
"$python" -m venv $venv || { rm -rf $venv; refuse "$python cannot make a virtual environment. Fix: install its venv module (Debian: apt install python3-venv), or make bench-peers PYTHON=..."; }
printf 'bench-peers setup: installing torch-rechub and DeepCTR-Torch (the first time takes minutes; progress in %s)\n' $log
if ! $venv/bin/python -m pip install -r $folder/requirements.txt >$log 2>&1; then
    tail -n 20 $log >&2
    refuse "pip failed; the whole output is in $log. Fix what it names, then run make bench-peers again."
fi
echo "$lock" >$venv/.lock
