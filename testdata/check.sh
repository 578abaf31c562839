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
secrets=$(git grep -lE -e '-----BEGIN ([A-Z]+ )?PRIVATE KEY' -- ':!*_test.go' ':!*.go' ':!docs/*' || true)
[[ -z $secrets ]] || say "a private key is in the tree: $secrets"
go vet ./... || bad=1
exit $bad
