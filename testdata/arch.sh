#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of the given packages as programs of other architectures. The CPU models are the floor we promise: the MIPS one
# has no FPU, so a hard-float instruction would end the test with SIGILL.
set -euo pipefail
export CGO_ENABLED=0 BACKSTAY_TEST_EMULATED=1

run() { # name, emulator command, environment...
  local name=$1 emulator=$2; shift 2
  echo "arch: $name under $emulator"
  env "$@" go test -short -timeout 20m -exec "$emulator" "${packages[@]}"
}
packages=("$@")
run "arm v7" "qemu-arm-static -cpu cortex-a7" GOARCH=arm GOARM=7
run "mips big endian, soft float" "qemu-mips-static -cpu 24Kc" GOARCH=mips GOMIPS=softfloat
run "mipsle, soft float" "qemu-mipsel-static -cpu 24Kc" GOARCH=mipsle GOMIPS=softfloat
