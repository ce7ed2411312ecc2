#!/bin/sh
# Prints the Python to make the project's environment with: the newest of 3.13, 3.12 and 3.11 on PATH that
# really runs (version managers put commands on PATH that only fail) and can make virtual environments.
# PYTHON=COMMAND selects another one, which must be 3.11 or newer. If there is none: a message and exit status 1.
set -eu

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true; }
makes_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null; }

fail_without_venv() {
    echo "error: $1 (Python $2) lacks the modules venv and ensurepip, so it cannot make the project's environment." >&2
    echo "  to do: install them, on Debian or Ubuntu: apt install python3-venv   (or python$2-venv)" >&2
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON")
    case $version in
        3.1[1-9] | 3.[2-9][0-9]) ;;
        *)
            found="this command does not run"
            [ -z "$version" ] || found="it is Python $version"
            echo "error: PYTHON=$PYTHON: $found; expected Python 3.11 or newer." >&2
            exit 1
            ;;
    esac
    makes_venvs "$PYTHON" || fail_without_venv "$PYTHON" "$version"
    echo "$PYTHON"
    exit 0
fi

seen=""
without_venv=""
without_venv_version=""
for wanted in 3.13 3.12 3.11; do
    for name in "python$wanted" python3 python; do
        rest="$PATH:"
        while [ -n "$rest" ]; do
            candidate="${rest%%:*}/$name"
            rest=${rest#*:}
            [ -f "$candidate" ] && [ -x "$candidate" ] || continue
            version=$(version_of "$candidate")
            seen="$seen
    $candidate: ${version:-does not run}"
            [ "$version" = "$wanted" ] || continue
            if makes_venvs "$candidate"; then
                [ -z "$without_venv" ] || echo "note: $without_venv lacks venv or ensurepip; taking $candidate" >&2
                echo "$candidate"
                exit 0
            fi
            [ -n "$without_venv" ] || { without_venv=$candidate without_venv_version=$version; }
        done
    done
done

[ -z "$without_venv" ] || fail_without_venv "$without_venv" "$without_venv_version"
echo "error: no Python 3.11, 3.12 or 3.13 on PATH. Found:" >&2
if [ -n "$seen" ]; then echo "$seen" | sed '/^$/d' | sort -u >&2; else echo "    none" >&2; fi
echo "  to do: install one (on Debian or Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
