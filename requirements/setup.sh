#!/bin/sh
# Makes .venv for this clone: sh requirements/setup.sh (make setup).
#   DEVICE=cpu|cuda   which torch, FBGEMM and TorchRec; default: the one already set up, else cuda where a CUDA driver answers
#   PYTHON=COMMAND    the interpreter; default: the first of python3.11 3.12 3.13 and python3 that fits
# Two stamps hold what was installed (a checksum of the requirement files with device and folder; one of the package's
# metadata), so a second run installs nothing and needs no network, and a failed one leaves no stamp.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
log=$venv/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONHOME PYTHONPATH PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_PREFIX PIP_USER || true

refuse() { printf 'setup: %s\n' "$1" >&2; exit 2; }

fits() { # interpreter: is it one that torch, FBGEMM and the pinned packages have wheels for?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" && { echo "$PYTHON"; return; }
        refuse "PYTHON=$PYTHON is $("$PYTHON" --version 2>/dev/null || echo absent); torch, FBGEMM and the other pinned packages have wheels for Python 3.11, 3.12 and 3.13. Fix: make setup PYTHON=/path/to/python3.11"
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if fits "$candidate"; then echo "$candidate"; return; fi
    done
    refuse "no fitting Python on PATH (python3 is $(python3 --version 2>/dev/null || echo absent)); torch, FBGEMM and the other pinned packages have wheels for Python 3.11, 3.12 and 3.13. Fix: install one of them, or name it: make setup PYTHON=/path/to/python3.11"
}

choose_device() {
    if [ -n "${DEVICE:-}" ]; then echo "$DEVICE"
    elif [ -f $venv/.device ]; then cat $venv/.device
    elif nvidia-smi -L >/dev/null 2>&1; then echo cuda
    elif ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then echo cuda
    else echo cpu
    fi
}

step() { # message, command...: run it into the log; on failure show the end of the log and stop
    message=$1
    shift
    printf 'setup: %s\n' "$message"
    if ! "$@" >>$log 2>&1; then
        tail -n 20 $log >&2
        refuse "failed at: $message. The whole output is in $log. Fix what it names, then run make setup again."
    fi
}

pip() { $venv/bin/python -m pip "$@"; }

case "$(uname -s) $(uname -m)" in
    "Linux x86_64" | "Linux aarch64") ;;
    *) refuse "this is $(uname -s) $(uname -m); FBGEMM has wheels for Linux on x86_64 and aarch64. Fix: use such a machine or container" ;;
esac
device=$(choose_device)
case $device in
    cpu) other=fbgemm-gpu ;;
    cuda) other=fbgemm-gpu-cpu ;;
    *) refuse "DEVICE=$device; it is cpu or cuda. Fix: make setup DEVICE=cpu" ;;
esac

lock="$device $PWD $(cat requirements/$device.txt requirements/$device-no-deps.txt requirements/dev.txt | cksum)"
package="$(cat setup.cfg pyproject.toml | cksum)"
same() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
version() { "$1" -c 'import sys; print(*sys.version_info[:3])' 2>/dev/null; }
usable() { # the scripts of a moved or copied .venv still name the old folder; a named PYTHON must be the one inside
    same $venv/.home "$PWD" && inside=$(version $venv/bin/python) &&
        { [ -z "${PYTHON:-}" ] || [ "$inside" = "$(version "$PYTHON")" ]; }
}

if [ -n "${PYTHON:-}" ]; then choose_python >/dev/null; fi
if usable && same $venv/.lock "$lock" && same $venv/.package "$package"; then exit 0; fi

if ! usable; then
    python=$(choose_python)
    printf 'setup: making %s with %s\n' "$venv" "$("$python" --version 2>&1)"
    rm -rf $venv
    "$python" -m venv $venv || { rm -rf $venv; refuse "$python cannot make a virtual environment. Fix: install its venv module (Debian: apt install python3-venv), or make setup PYTHON=..."; }
    echo "$PWD" >$venv/.home
fi

if ! same $venv/.lock "$lock"; then
    rm -f $venv/.lock $venv/.package $venv/.device
    : >$log
    # Both FBGEMM wheels own one folder: removing one tears a hole into the other, so both go before the right one comes.
    if pip show -q $other >/dev/null 2>&1; then step "removing both FBGEMM wheels" pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu; fi
    step "installing the pinned packages for $device (the first time takes minutes; progress in $log)" \
        pip install -r requirements/$device.txt -r requirements/dev.txt
    step "installing torchrec and iopath without their requirements" \
        pip install --no-deps --no-build-isolation -r requirements/$device-no-deps.txt
    step "importing torch, FBGEMM and torchrec" $venv/bin/python -W ignore -c 'import torch, fbgemm_gpu, torchrec'
    echo "$device" >$venv/.device
    echo "$lock" >$venv/.lock
fi

rm -f $venv/.package
step "installing ple-rec from this folder" pip install --no-deps --no-build-isolation --editable .
echo "$package" >$venv/.package
printf 'setup: done (%s, device %s)\n' "$($venv/bin/python --version)" "$device"
