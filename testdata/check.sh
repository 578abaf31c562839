#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What can be seen without running anything: format, vet, licence lines, tidy module file.
set -euo pipefail
bad=0
say() { echo "check: $1" >&2; bad=1; }

unformatted=$(gofmt -l $(git ls-files '*.go'))
[[ -z $unformatted ]] || say "gofmt would change: $unformatted"
unlicensed=$(git ls-files '*.go' | xargs grep -L 'SPDX-License-Identifier: Apache-2.0' || true)
[[ -z $unlicensed ]] || say "no licence line: $unlicensed"
# A key has at least one full line behind its marker; a text about keys has not.
secrets=$(git grep -hE -A1 -e '-----BEGIN ([A-Z]+ )?PRIVATE KEY' | grep -E '^[A-Za-z0-9+/]{40}' || true)
[[ -z $secrets ]] || say "a private key is in the tree: git grep -A1 'PRIVATE KEY'"
go vet ./... || bad=1
exit $bad
