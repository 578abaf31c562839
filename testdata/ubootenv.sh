#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: ubootenv.sh
#
# Builds U-Boot's own fw_printenv (also fw_setenv) from Debian's source package, once, and prints where it is. Debian's package
# of that name is libubootenv's, a program of its own. The source comes over a list of package sources that only this script
# uses; nothing on this machine changes but UBOOT_CACHE (~/.cache/backstay-uboot). Packages: gcc make bison flex.
set -euo pipefail
cache=${UBOOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/backstay-uboot}
tool=$cache/out/tools/env/fw_printenv
mkdir -p "$cache"
exec 9> "$cache/lock"; flock 9
if [[ ! -x $tool ]]; then
  for p in gcc make bison flex dpkg-source apt-get; do
    command -v "$p" >/dev/null || { echo "ubootenv.sh: $p is missing (packages gcc make bison flex dpkg-dev)" >&2; exit 77; }
  done
  mkdir -p "$cache"/{lists/partial,archives/partial,out}
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" > "$cache/sources.list"
  apt=(-qq -o "Dir::Etc::sourcelist=$cache/sources.list" -o Dir::Etc::sourceparts=/nonexistent -o "Dir::State::lists=$cache/lists" -o "Dir::Cache=$cache" -o APT::Sandbox::User=root)
  {
    apt-get "${apt[@]}" update
    (cd "$cache" && apt-get "${apt[@]}" source --download-only u-boot && rm -rf src && mkdir src && tar xf u-boot_*.orig.tar.* -C src --strip-components=1)
    make -s -C "$cache/src" O="$cache/out" sandbox_defconfig
    make -s -C "$cache/src" O="$cache/out" envtools
  } >&2
fi
echo "$tool"
