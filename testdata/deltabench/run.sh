#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures deltas beside xdelta3, zstd --patch-from, chunks and block hashes. Needs apt's package sources, e2fsprogs, python3,
# xdelta3, zstd, time, half an hour and 2 GiB. As root it also applies each delta inside a memory cgroup of 8 MiB, as a program
# of 32 bits.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:?usage: run.sh DIRECTORY}
mkdir -p "$dir"
cd "$here/../.."
CGO_ENABLED=0 go build -o "$dir/deltabench" ./testdata/deltabench
CGO_ENABLED=0 GOARCH=386 go build -o "$dir/deltabench32" ./testdata/deltabench
[[ -e $dir/S1.img ]] || "$here/images.sh" "$dir"
cd "$dir"
measure() { # name output command
  local name=$1 out=$2; shift 2
  /usr/bin/time -o time -f '%U+%S s of CPU, %M KiB' "$@" >log
  echo "  $name: $([[ -e $out ]] && stat -c %s "$out" || true) bytes, $(tail -n 1 time) $(tail -n 1 log)"
}
small() { # in a cgroup of 8 MiB
  local c=/sys/fs/cgroup/memory/deltabench limit=memory.limit_in_bytes
  [[ -d /sys/fs/cgroup/memory ]] || { c=/sys/fs/cgroup/deltabench limit=memory.max; }
  mkdir -p $c && echo $((8 << 20)) >$c/$limit || { echo "  no memory cgroup here"; return; }
  bash -c "echo \$\$ >$c/cgroup.procs; GOMEMLIMIT=6MiB exec ./deltabench32 apply $1" | sed 's/^/  in 8 MiB, 32 bits: /'
  rmdir $c
}
for p in S O R; do
  echo "$p:"
  measure "ours encode" $p.pack ./deltabench encode ${p}0.img ${p}1.img $p.pack
  measure "ours apply" $p.pack ./deltabench apply ${p}0.img ${p}1.img $p.pack
  ((EUID != 0)) || small "${p}0.img ${p}1.img $p.pack"
  measure "xdelta3 -9" $p.xd xdelta3 -9 -f -e -B 134217728 -s ${p}0.img ${p}1.img $p.xd
  measure "xdelta3 apply" $p.xd xdelta3 -f -d -B 134217728 -s ${p}0.img $p.xd out
  measure "zstd -19 --patch-from" $p.zst zstd -q -f -19 --long=27 --patch-from=${p}0.img ${p}1.img -o $p.zst
  measure "zstd apply" $p.zst zstd -q -f -d --long=27 --patch-from=${p}0.img $p.zst -o out
  ./deltabench others ${p}0.img ${p}1.img | sed 's/^/  /'
done
echo "R alone:"
measure "ours compressed" R.full ./deltabench encode - R1.img R.full
measure "ours apply" R.full ./deltabench apply /dev/null R1.img R.full
measure "zstd -19" R.zst19 zstd -q -f -19 R1.img -o R.zst19
