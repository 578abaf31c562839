#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that the tests use and that are missing, and says which and why. Needs root or sudo only then.
set -euo pipefail

missing=()
need() { # package, why, file that the package brings
  local package=$1 why=$2 program=$3
  [[ -x $program ]] && return
  echo "need: $package ($why)"
  missing+=("$package")
}
need libubootenv-tool "fw_printenv and fw_setenv must read and write the same U-Boot environment as we do" /usr/bin/fw_printenv
need grub-common "grub-editenv must read and write the same GRUB environment as we do" /usr/bin/grub-editenv
need efibootmgr "it must read and write the same EFI boot variables as we do" /bin/efibootmgr
need u-boot-tools "mkenvimage makes reference environment images" /usr/bin/mkenvimage
need mosquitto "a real broker that is killed while events flow" /usr/sbin/mosquitto
need swtpm "a TPM 2.0 in software, for the counter that notices a log that was set back" /usr/bin/swtpm
need qemu-user-static "runs the device packages' tests as arm, mips and mipsle programs" /usr/bin/qemu-mips-static
need openssl "reads the certificates and replies of our enrolment authority" /usr/bin/openssl
need bash "the completion script is run in it" /bin/bash
need openssh-server "sshd -T says how the server reads the configurations that we judge" /usr/sbin/sshd
need groff-base "the manual pages must be well-formed roff" /usr/bin/groff
need mount "losetup, for the block device tests" /sbin/losetup
need nftables "nft lists and loads the same tables as we read and write" /usr/sbin/nft
need busybox-static "its init is process 1 where a service is put out of use while it runs" /bin/busybox
need squashfs-tools "mksquashfs makes the images that our reader must read" /usr/bin/mksquashfs
need e2fsprogs "mkfs.ext4 does the same for ext2, ext3 and ext4" /sbin/mkfs.ext4
need fdisk "sfdisk makes partition tables to choose from" /sbin/sfdisk
need cpio "makes an initramfs" /usr/bin/cpio
need xz-utils "compresses archives" /usr/bin/xz
need bzip2 "the same" /usr/bin/bzip2
((${#missing[@]})) || exit 0

sudo=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "need: run as root, or install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
# A package's own service must not start: the tests run their own broker on a port of their own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
  "${sudo[@]}" chmod 755 $policy
  trap '"${sudo[@]}" rm -f $policy' EXIT
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
