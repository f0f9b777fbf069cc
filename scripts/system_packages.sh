# Sourced by the scripts that need system packages: `install_packages NAME...` installs them as root or through sudo, or
# says which are missing and ends the script.
install_packages() {
    local as_root=() root=no
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ]; then root=yes; elif sudo -n true 2>/dev/null; then root=yes as_root=(sudo -n); fi
    if [ $root = no ] || ! command -v apt-get >/dev/null; then
        echo "missing system packages: run \`apt-get install $*\` as root, then try again" >&2
        exit 1
    fi
    echo "installing system packages: $*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
