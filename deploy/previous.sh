#!/usr/bin/env bash
# Builds the server of an earlier commit beside this one's, and prints where its binary is.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: deploy/previous.sh COMMIT" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
commit=$(git -C "$root" rev-parse --verify "$1^{commit}")
dir=$root/target/previous
binary=$dir/holdfast-$commit
if [ ! -x "$binary" ]; then
    tree=$dir/tree
    mkdir -p "$dir"
    rm -rf "$tree"
    git -C "$root" worktree prune
    git -C "$root" worktree add --detach --force "$tree" "$commit" >&2
    ROCKSDB_LIB_DIR=$("$root/deploy/rocksdb.sh") ROCKSDB_STATIC=1 CARGO_TARGET_DIR=$dir/target \
        cargo build --release --locked -p holdfast-server --manifest-path "$tree/Cargo.toml" >&2
    cp "$dir/target/release/holdfast" "$binary"
    git -C "$root" worktree remove --force "$tree"
fi
echo "$binary"
