#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# release.sh DIR VERSION DATE: builds the release into DIR. The same tree and tool chain give the same bytes in any directory.
set -euo pipefail
out=$1 version=$2 date=$3
rm -rf "$out" && mkdir -p "$out"
export GOFIPS140=${GOFIPS140:-v1.0.0} CGO_ENABLED=0 GOOS=linux GOFLAGS=
cli=github.com/backstay/backstay/cmd/internal/cli
device=(-tags nethttpomithttp2 -gcflags=github.com/backstay/backstay/...=-l) # see the Makefile
build() { # output name, package, environment...
  local name=$1 package=$2; shift 2
  local how=(); [[ $package == ./cmd/backstay ]] && how=("${device[@]}")
  env "$@" go build "${how[@]}" -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X $cli.Version=$version -X $cli.Date=$date" -o "$out/$name" "$package"
}
build backstay-linux-armv5 ./cmd/backstay GOARCH=arm GOARM=5
build backstay-linux-armv6 ./cmd/backstay GOARCH=arm GOARM=6
build backstay-linux-armv7 ./cmd/backstay GOARCH=arm GOARM=7
build backstay-linux-arm64 ./cmd/backstay GOARCH=arm64
build backstay-linux-mips-softfloat ./cmd/backstay GOARCH=mips GOMIPS=softfloat
build backstay-linux-mipsle-softfloat ./cmd/backstay GOARCH=mipsle GOMIPS=softfloat
build backstay-linux-mips64le ./cmd/backstay GOARCH=mips64le
build backstay-linux-riscv64 ./cmd/backstay GOARCH=riscv64
build backstay-linux-amd64 ./cmd/backstay GOARCH=amd64
build backstayctl-linux-amd64 ./cmd/backstayctl GOARCH=amd64
build backstayctl-linux-arm64 ./cmd/backstayctl GOARCH=arm64
"$out/backstay-linux-amd64" version --sbom >"$out/backstay.cdx.json"
"$out/backstayctl-linux-amd64" version --sbom >"$out/backstayctl.cdx.json"
(cd "$out" && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
