#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: inroot.sh ROOT UPPER COMMAND...   (as root)
# Runs COMMAND in ROOT as in a running system: own mount, process, network and host name spaces, /proc and /sys mounted, loopback
# up. What COMMAND writes goes to UPPER, so ROOT stays as it is; what a tool needs to have in the root is put into UPPER before.
set -euo pipefail
root=$(realpath "$1") upper=$(realpath "$2"); shift 2
mkdir -p "$upper" "$upper.work" "$upper.at"
# shellcheck disable=SC2016
exec unshare -m -p -n -u -f -- bash -c '
  mount --make-rprivate /
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$2.work" "$2.at"
  mount -t proc proc "$2.at/proc"; mount -t sysfs -o ro sysfs "$2.at/sys"
  ip link set lo up 2>/dev/null || true
  at=$2.at; shift 2; exec chroot "$at" "$@"' _ "$root" "$upper" "$@"
