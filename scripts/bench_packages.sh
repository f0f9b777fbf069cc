#!/usr/bin/env bash
# What `make bench` needs beyond `make setup`: a C compiler for its client. Does only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

missing=()
command -v cc >/dev/null || missing+=(gcc)
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
install_packages "${missing[@]}"
