#!/bin/sh
# Clones the last commit into a temporary folder and runs `make demo` there, once with each of Python 3.11, 3.12 and 3.13
# that works on this machine. PYTHONS="COMMAND ..." selects others.
set -eu
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
clones=$(mktemp -d)
trap 'rm -rf "$clones"' EXIT
tried=0
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
    if ! "$python" -c 'import sys' >/dev/null 2>&1; then
        echo "fresh: $python does not run here: left out"
        continue
    fi
    clone="$clones/$tried"
    git clone --quiet "$repository" "$clone"
    echo "fresh: make demo with $python"
    make -C "$clone" demo PYTHON="$python" </dev/null
    tried=$((tried + 1))
done
[ "$tried" -gt 0 ] || { echo "fresh: no Python to try" >&2; exit 1; }
echo "fresh: make demo worked with $tried of the Pythons"
