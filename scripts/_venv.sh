# Sourced by the other scripts: goes to the root of the checkout and provides use_venv.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local python
    for python in python3 /usr/bin/python3 python3.{14,13,12,11}; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

install_python() {
    local output
    if ((EUID)) || ! command -v apt-get >/dev/null; then
        echo "Python 3.11 or newer with venv is missing. On Debian: sudo apt-get install python3-venv" >&2
        return 1
    fi
    output=$(
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update 2>&1 && apt-get -qq install -y --no-install-recommends python3-venv 2>&1
    ) || { echo "$output" >&2; return 1; }
}

make_venv() {
    local python
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
    find_python >/dev/null || install_python
    python=$(find_python) || { echo "Python 3.11 or newer with venv is missing." >&2; return 1; }
    "$python" -m venv --clear .venv
}

# use_venv EXTRAS: make .venv hold this checkout with these extras. Does nothing until pyproject.toml changes.
use_venv() {
    local stamp=".venv/installed-$1" state
    state="$PWD $(sha256sum <pyproject.toml)"
    {
        flock 9 # one script at a time
        if [[ ! -x .venv/bin/python || $(cat "$stamp" 2>/dev/null) != "$state" ]]; then
            make_venv
            .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$1]"
            echo "$state" >"$stamp"
        fi
    } 9<.
}
