#!/bin/sh
# Makes .venv-cuda-stack, in which `make test-cuda-stack` runs the tests: the packages of requirements/cuda.txt, but for
# FBGEMM, whose CPU wheel of the same version needs no GPU. PyPI's torch brings CUDA libraries: 7.4 GB in all.
# Makes .venv-cuda-stack-fbgemm, too: FBGEMM's CUDA wheel alone (500 MB to fetch, 2.7 GB), whose operators
# tests/gpu_proofs/test_wheels.py checks. Both wheels own the folder fbgemm_gpu, so it cannot be in the environment.
# A stamp holds what was installed, so a second run installs nothing and needs no network.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-cuda-stack
wheel=.venv-cuda-stack-fbgemm
log=$venv/setup.log
pip="$venv/bin/python -m pip --disable-pip-version-check --no-input"
unset PYTHONHOME PYTHONPATH PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_PREFIX PIP_USER || true

lock="$PWD $(cat requirements/cuda.txt requirements/cuda-no-deps.txt requirements/dev.txt setup.cfg pyproject.toml | cksum)"
if [ -f $venv/.lock ] && [ "$(cat $venv/.lock)" = "$lock" ]; then exit 0; fi

rm -rf $venv $wheel
.venv/bin/python -m venv $venv
sed 's/^fbgemm-gpu==/fbgemm-gpu-cpu==/' requirements/cuda.txt >$venv/packages.txt
printf 'cuda-stack: installing the packages (minutes, 10 GB; progress in %s)\n' $log
if ! {
    $pip install -r $venv/packages.txt -r requirements/dev.txt &&
        $pip install --no-deps --no-build-isolation -r requirements/cuda-no-deps.txt &&
        $pip install --no-deps --no-build-isolation --editable . &&
        $pip install --no-deps --target $wheel "$(grep '^fbgemm-gpu==' requirements/cuda.txt)"
} >$log 2>&1; then
    tail -n 20 $log >&2
    printf 'cuda-stack: pip failed; the whole output is in %s. Fix what it names, then run make test-cuda-stack again.\n' $log >&2
    exit 2
fi
echo "$lock" >$venv/.lock
