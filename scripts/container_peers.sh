#!/usr/bin/env bash
# What the tests of secure containers are held against, for `make test`: skopeo and docker-registry carry images, umoci unpacks them,
# veritysetup checks a hash tree, thin_check the metadata of a thin pool, nbdcopy and qemu-io read what is served. Other programs that
# are named are wanted too. Does only what is missing; where they cannot be installed, those tests are skipped and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

missing=()
command -v skopeo >/dev/null || missing+=(skopeo)
command -v umoci >/dev/null || missing+=(umoci)
command -v docker-registry >/dev/null || missing+=(docker-registry)
[ -e /usr/sbin/veritysetup ] || [ -e /sbin/veritysetup ] || missing+=(cryptsetup-bin)
command -v thin_check >/dev/null || [ -e /usr/sbin/thin_check ] || missing+=(thin-provisioning-tools)
command -v nbdcopy >/dev/null || missing+=(libnbd-bin)
command -v qemu-io >/dev/null || missing+=(qemu-utils)
for name in "$@"; do
    command -v "$name" >/dev/null || missing+=("$name")
done
(install_packages "${missing[@]}") || echo "the tests that need them are skipped"
