#!/bin/sh
# Makes .venv if there is none, and installs a lock file into it with hashes checked, unless that lock is already installed.
#   scripts/install.sh requirements.lock          CUDA=1: also JAX's CUDA 13 plugin, for an NVIDIA GPU
#                                                 EXPORT=1: also the packages for ONNX export and the engines
# The environment is not put on PATH. PYTHON=COMMAND selects the Python to make it with.
set -eu
lock=$1
here=$(dirname "$0")
venv=.venv
stamp="$venv/installed-$(basename "$lock")"
cuda_stamp="$venv/installed-cuda"

fail_of_pip() {
    echo "error: pip could not install $1; its message stands above." >&2
    echo "  to do: check the network, the proxy and the free disk space (2 GB, with CUDA 8 GB), then run the same command again." >&2
    exit 1
}
pip_install() { PIP_USER=0 "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

if [ -e "$venv" ] && ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    echo "$venv is unfinished or its Python is gone: making it anew"
    rm -rf "$venv"
fi
if [ ! -e "$venv" ]; then
    python=$("$here/find_python.sh")
    echo "Making $venv with $python"
    if ! "$python" -m venv "$venv" >&2; then
        rm -rf "$venv"
        echo "error: $python could not make $venv; its message stands above." >&2
        echo "  to do: on Debian or Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi

if ! cmp -s "$lock" "$stamp"; then
    echo "Installing $lock into $venv (minutes, the first time)"
    pip_install --require-hashes -r "$lock" || fail_of_pip "$lock"
    [ ! -e "$cuda_stamp" ] || CUDA=1
    rm -f "$cuda_stamp"
    cp "$lock" "$stamp"
fi
if [ -n "${CUDA:-}" ] && [ ! -e "$cuda_stamp" ]; then
    plugin="jax[cuda13]==$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("jax"))')"
    echo "Installing $plugin into $venv (gigabytes)"
    pip_install "$plugin" || fail_of_pip "$plugin"
    touch "$cuda_stamp"
fi
if [ -n "${EXPORT:-}" ] && ! cmp -s requirements-export.txt "$venv/installed-export"; then
    echo "Installing requirements-export.txt into $venv"
    pip_install --no-deps -r requirements-export.txt || fail_of_pip requirements-export.txt
    cp requirements-export.txt "$venv/installed-export"
fi
