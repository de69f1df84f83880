#!/usr/bin/env bash
# Installs the Debian packages of env/LIST.txt (default: debian) that are missing. Says which; asks nothing; uses sudo when not root.
#   env/install.sh [LIST...]     e.g. env/install.sh debian debian-slurm
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

lists=("${@:-debian}")
packages=$(cd "$here" && grep -hv '^#' "${lists[@]/%/.txt}")
missing=()
for package in $packages; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "packages: all installed"
    exit 0
fi

echo "packages: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "not root and no sudo: ask an administrator for these packages" >&2; exit 1; }
    as_root=(sudo)
fi
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update -qq &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "packages: installation failed (whole log: $log)" >&2
    exit 1
fi
rm -f "$log"
