#!/usr/bin/env bash
# A C compiler, for `make test` and `make bench`: both want the compiled hot loop, and small programs of their own.
# `make setup` does without. Does only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

missing=()
command -v cc >/dev/null || missing+=(gcc)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
install_packages "${missing[@]}"
