#!/usr/bin/env bash
# Builds librocksdb.a once for this machine and prints the folder that holds it.
#
# RocksDB is most of a cold build. The library depends on nothing but its crate's version, so it is kept in a cache
# folder of the user, where every profile and every clone links it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/rocksdb-$version"
if [ ! -f "$cache/librocksdb.a" ]; then
    echo "building RocksDB $version once for this machine (about 12 CPU minutes)" >&2
    mkdir -p "$cache"
    CC=clang CXX=clang++ cargo build --release --locked --package librocksdb-sys --target-dir "$cache/build" >&2
    found=$(find "$cache/build" -name librocksdb.a -print -quit)
    mv "$found" "$cache/librocksdb.a.part"
    mv "$cache/librocksdb.a.part" "$cache/librocksdb.a"
    rm -rf "$cache/build"
fi
echo "$cache"
