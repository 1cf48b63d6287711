#!/usr/bin/env bash
# Builds the container image `ottla:latest` from a release build. Needs cargo, gcc and a Docker
# engine; pulls nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tag=${1:-ottla:latest}

(cd "$root" && cargo build --release --bin ottla)
binary="${CARGO_TARGET_DIR:-$root/target}/release/ottla"

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
rootfs="$context/rootfs"
mkdir -p "$context/data" "$rootfs/etc/ottla" "$rootfs/tmp"
chmod 1777 "$rootfs/tmp"
cp "$binary" "$rootfs/ottla"
# The program's shared libraries, at the places where it looks for them.
ldd "$binary" | awk '/=> \//{print $3} /^\t\/lib/{print $1}' | while read -r library; do
    mkdir -p "$rootfs$(dirname "$library")"
    cp -L "$library" "$rootfs$library"
done
# Host names are looked up in files first, then by DNS.
printf 'hosts: files dns\n' > "$rootfs/etc/nsswitch.conf"
printf 'ottla:x:65532:65532::/:/ottla\n' > "$rootfs/etc/passwd"
cp "$here/Dockerfile" "$context/Dockerfile"
docker build --tag "$tag" "$context"
