#!/usr/bin/env bash
# Installs the Debian packages that building ("build") or testing ("test") needs, and says so. Does nothing, and needs no
# network, where they are there.
set -euo pipefail


missing=()
want() { # package, command that shows it is there
    bash -c "$2" >/dev/null 2>&1 || missing+=("$1")
}
case "${1:?build or test}" in
build)
    want clang "command -v clang"
    want libclang-dev "ls /usr/lib/llvm-*/lib/libclang*.so*"
    want protobuf-compiler "command -v protoc"
    ;;
test)
    want awscli "command -v aws"
    want python3-boto3 "python3 -c 'import boto3'"
    want curl "command -v curl"
    want iproute2 "command -v ip"
    want nftables "command -v nft || test -x /usr/sbin/nft"
    want e2fsprogs "command -v mkfs.ext4 || test -x /usr/sbin/mkfs.ext4"
    ;;
*)
    echo "usage: $0 build|test" >&2
    exit 2
    ;;
esac
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing missing packages: ${missing[*]}" >&2
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi
