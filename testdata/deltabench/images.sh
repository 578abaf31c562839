#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes three pairs of images in the given directory: R, a whole security update; O, only its openssl; S, a layout that shifts.
# R is made of Debian packages: the oldest and the newest version that the package sources of this machine still offer.
set -euo pipefail
cd "$1"
packages=(libssl3 openssl libc6 libc-bin systemd libsystemd-shared libsystemd0 udev libudev1 curl libcurl4 python3.11-minimal
  libpython3.11-minimal libpython3.11-stdlib openssh-server openssh-client libxml2 perl-base sudo nginx bind9-libs libexpat1 libc-l10n)
mkdir -p old new
for p in "${packages[@]}"; do
  lo='' hi=''
  for v in $(apt-cache madison "$p" | awk '{print $3}' | sort -u); do
    [[ -z $lo ]] || dpkg --compare-versions "$v" lt "$lo" && lo=$v
    [[ -z $hi ]] || dpkg --compare-versions "$v" gt "$hi" && hi=$v
  done
  [[ -n $lo && $lo != "$hi" ]] || { echo "$p: one version only" >&2; continue; }
  echo "$p $lo $hi"
  (cd old && apt-get download -qq "$p=$lo")
  (cd new && apt-get download -qq "$p=$hi")
done > versions.txt

uuid=5e1f4e3a-2b1c-4d5e-8f90-000000000001
ext4() { # tree image MiB
  rm -f "$2" && truncate -s "$3M" "$2"
  find "$1" -print0 | xargs -0 touch -h -d @1700000000
  E2FSPROGS_FAKE_TIME=1700086400 mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -U $uuid -E hash_seed=$uuid,root_owner=0:0 -d "$1" "$2"
}
rm -rf t && mkdir -p t/old t/new t/one t/s0
for d in old/*.deb; do dpkg-deb -x "$d" t/old; [[ $d == *ssl* ]] || dpkg-deb -x "$d" t/one; done
for d in new/*.deb; do dpkg-deb -x "$d" t/new; [[ $d != *ssl* ]] || dpkg-deb -x "$d" t/one; done
rm -rf t/*/usr/share/{doc,man,locale,info}
ext4 t/old R0.img 104; ext4 t/new R1.img 104; ext4 t/one O1.img 104; ln -f R0.img O0.img
python3 - <<'P'
import random, shutil
random.seed(5)
blob = open('R0.img', 'rb').read()
words = [blob[i:i+16] for i in range(0, len(blob), 4099)]
for i in range(60):
    n = random.randrange(200_000, 1_400_000)
    at = random.randrange(0, len(blob) - n)
    open(f't/s0/f{i:03}', 'wb').write(blob[at:at+n])
shutil.copytree('t/s0', 't/s1')
for i in random.sample(range(60), 24):
    b = open(f't/s1/f{i:03}', 'rb').read()
    at = random.randrange(0, len(b))
    new = random.randbytes(random.randrange(8, 200))
    open(f't/s1/f{i:03}', 'wb').write(b[:at] + new + b[at+random.randrange(0, 64):])
for i in range(6):
    open(f't/s1/a-new{i}', 'wb').write(b''.join(random.choice(words[:200]) for _ in range(100)) + b'\n')
P
ext4 t/s0 S0.img 64; ext4 t/s1 S1.img 64
sha256sum ./*.img
