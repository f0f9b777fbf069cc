#!/usr/bin/env bash
# What `make conformance` needs beyond `make setup`: two system packages, and python-pkcs11's own test suite, in the
# release that is installed, with the one package that only its tests use. Does only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/system_packages.sh

missing=()
command -v p11tool >/dev/null || missing+=(gnutls-bin)
compgen -G '/usr/lib/*/engines-3/pkcs11.so' >/dev/null || missing+=(libengine-pkcs11-openssl)
install_packages "${missing[@]}"

pip=(.venv/bin/python -m pip --disable-pip-version-check)
if ! .venv/bin/python -c 'import parameterized' 2>/dev/null; then
    echo "installing parameterized, which python-pkcs11's tests use"
    "${pip[@]}" install -q -c constraints.txt parameterized
fi

release=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("python-pkcs11"))')
suite=.venv/conformance/python-pkcs11-$release
if [ ! -e "$suite/tests/__init__.py" ]; then
    echo "getting the source distribution of python-pkcs11 $release"
    fresh=$(mktemp -d .venv/conformance.XXXXXX)
    trap 'rm -rf "$fresh"' EXIT
    # pip reads the metadata of what it downloads, for which it makes the build environment that the package asks
    # for; nothing is compiled, and nothing of it stays.
    "${pip[@]}" download -q -q --no-deps --no-binary python-pkcs11 -d "$fresh" "python-pkcs11==$release"
    mkdir "$fresh/suite"
    # The tests alone: the library's sources beside them would be imported instead of the library.
    tar -xzf "$fresh"/*.tar.gz -C "$fresh/suite" --strip-components 1 --wildcards '*/tests' '*/pyproject.toml'
    mkdir -p .venv/conformance
    rm -rf "$suite"
    mv "$fresh/suite" "$suite"
fi
