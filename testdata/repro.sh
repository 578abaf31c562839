#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# repro.sh VERSION DATE: builds the release from two copies of the tree in different directories, with separate build caches, and
# fails if one byte differs.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for copy in one another/deeper/place; do
  mkdir -p "$work/$copy"
  git ls-files -z | xargs -0 cp --parents -t "$work/$copy"
  (cd "$work/$copy" && GOCACHE="$work/cache-${copy%%/*}" testdata/release.sh dist "$1" "$2" >/dev/null)
done
diff -r "$work/one/dist" "$work/another/deeper/place/dist"
echo "repro: $(wc -l <"$work/one/dist/SHA256SUMS") files, byte for byte the same"
