#!/usr/bin/env bash
# Makes the development environment: system packages through apt, .venv/ with the pinned Python packages.
# Does only what is missing, so a second run is quick. PYTHON names the interpreter (3.11 or later).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

declare -A package_of=(
    [softhsm2-util]=softhsm2
    [pkcs11-tool]=opensc
    [openssl]=openssl
    [bwrap]=bubblewrap
    [p11-kit]=p11-kit
)
missing=()
for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
compgen -G '/usr/lib/*/pkcs11/p11-kit-client.so' >/dev/null || missing+=(p11-kit-modules)
# Not by `command -v`: an ordinary user's PATH does not lead there.
[ -x /sbin/mke2fs ] || [ -x /usr/sbin/mke2fs ] || missing+=(e2fsprogs)
[ -e /usr/include/p11-kit-1/p11-kit/pkcs11.h ] || missing+=(libp11-kit-dev)

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3; do
        if command -v "$candidate" >/dev/null; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ]; then
    missing+=(python3 python3-venv)
elif [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3-venv)
fi

install_packages "${missing[@]}"
python=${python:-python3}

stamp=.venv/.made-from
# Whether a compiler is there counts too: where one comes later, what is in C is compiled then.
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh scripts/system_packages.sh hatch_build.py \
    firmware/keyvisor_firmware/broker/hot/hot_loop.c guest-sdk/keyvisor_guest/containers/block_loop.c \
    <(command -v cc gcc clang || true) | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "making .venv (pinned Python packages, about a minute)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt hatchling editables
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[firmware,dev,example]'
    echo "$wanted" >"$stamp"
fi
