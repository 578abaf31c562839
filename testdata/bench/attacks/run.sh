#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh > docs/attacks.md    (as root)
#
# Plays the same attacks against backstay (update/updatetest/attack_test.go) and, where they are installed, against RAUC, SWUpdate
# and Mender's client, and prints the page. Each peer gets the configuration that its documentation gives for signed updates; the
# rows "default configuration" leave out what is optional. A case is one bundle, signed with the peer's own tools or bent after
# that; what counts is the slot afterwards:
#
#   installed   the slot holds the payload of the attacker, and the tool said that all is well
#   refused     the tool said no, and the slot is as it was
#   dirty       the tool said no, and has written to the slot
#
# Debian packages: those of testdata/bench/update/run.sh, and faketime.
set -uo pipefail
cd "$(dirname "$0")/../../.."; top=$PWD
W=$(mktemp -d); cd "$W"
N=4194304 M=(rauc swupdate mender)
declare -A RESULT
truncate -s 1M a.disk; truncate -s 8M b.disk
A=$(losetup -f --show a.disk) B=$(losetup -f --show b.disk)
cleanup() { losetup -d "$A" "$B"; cd /; rm -rf "$W"; }
trap cleanup EXIT
head -c $N /dev/urandom > old; head -c $N /dev/urandom > payload; head -c $N /dev/urandom > implant

cert() { # name, faketime or ""
  ${2:+faketime "$2"} openssl req -x509 -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.crt" -days 30 -subj "/CN=TEST $1" \
    -addext keyUsage=digitalSignature -addext extendedKeyUsage=emailProtection,codeSigning 2>/dev/null
}
cert good ""; cert wrong ""; cert expired "2020-01-01"
for k in good wrong; do openssl genrsa -traditional -out $k.mkey 3072 2>/dev/null; openssl rsa -in $k.mkey -pubout -out $k.mpub 2>/dev/null; done

have() { command -v "$1" >/dev/null; }
has_rauc() { have rauc && have dbus-run-session; }
has_swupdate() { have swupdate && have cpio; }
has_mender() { have mender && have mender-artifact; }

# reset puts the old image back; outcome compares after the tool ended with $1.
reset() { dd if=old of="$B" bs=1M conv=fsync status=none; blockdev --flushbufs "$B"; }
outcome() {
  blockdev --flushbufs "$B"; head -c $N "$B" > now
  if cmp -s now old; then [[ $1 == 0 ]] && echo "nothing done" || echo refused
  elif cmp -s now payload || cmp -s now implant; then [[ $1 == 0 ]] && echo "**installed**" || echo "**written, then refused**"
  else [[ $1 == 0 ]] && echo "**installed, damaged**" || echo dirty; fi
}

# --- RAUC: bundle VERSION KEY COMPATIBLE; install [option for system.conf]
rauc_bundle() {
  rm -rf rb case.raucb; mkdir rb; cp payload rb/rootfs.img
  printf '[update]\ncompatible=%s\nversion=%s\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n' "$3" "$1" > rb/manifest.raucm
  faketime "${4:-now}" rauc bundle --cert "$2.crt" --key "$2.key" rb case.raucb >/dev/null 2>&1
}
rauc_install() {
  mkdir -p mnt; printf '[system]\ncompatible=bench\nbootloader=noop\nbundle-formats=plain\nmountprefix=%s/mnt\nstatusfile=%s/status\n%s\n[keyring]\npath=%s/ring.pem\ncheck-purpose=codesign\n[slot.rootfs.0]\ndevice=%s\ntype=raw\nbootname=A\n[slot.rootfs.1]\ndevice=%s\ntype=raw\nbootname=B\n' \
    "$W" "$W" "${1:-}" "$W" "$A" "$B" > system.conf
  cat good.crt expired.crt > ring.pem
  timeout 60 dbus-run-session -- sh -c 'export DBUS_STARTER_BUS_TYPE=session; rauc -c system.conf --override-boot-slot=A service >/dev/null 2>&1 & s=$!
    for i in $(seq 200); do dbus-send --session --print-reply --dest=de.pengutronix.rauc / org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1 && break; sleep 0.02; done
    rauc install "$@" case.raucb >/dev/null 2>&1; r=$?; kill $s; wait; exit $r' sh ${2:+"$2"} >/dev/null 2>&1
}
# --- SWUpdate: bundle VERSION KEY HARDWARE [unsigned]; install [options]
swupdate_bundle() {
  rm -f case.swu sw-description*
  printf 'software = { version = "%s"; hardware-compatibility: [ "%s" ]; images: ( { filename = "payload"; device = "%s"; type = "raw"; sha256 = "%s"; installed-directly = true; } ); }\n' \
    "$1" "$3" "$B" "$(sha256sum payload | cut -d' ' -f1)" > sw-description
  local list="sw-description sw-description.sig payload"
  if [[ ${4:-} == unsigned ]]; then list="sw-description payload"
  elif [[ ${4:-} == empty ]]; then : > sw-description.sig
  else openssl cms -sign -in sw-description -out sw-description.sig -signer "$2.crt" -inkey "$2.key" -outform DER -nosmimecap -binary; fi
  printf '%s\n' $list | cpio -o -H crc > case.swu 2>/dev/null
}
swupdate_install() { cat good.crt expired.crt > ring.pem; timeout 60 swupdate -H bench:1.0 -k ring.pem -M -m "$@" -i case.swu >/dev/null 2>&1; }
# --- Mender: bundle VERSION KEY DEVICE (KEY - : unsigned); install [noverify|nokeyfile]
mender_bundle() { local sign=(-k "$2.mkey"); [[ $2 == - ]] && sign=(); rm -f case.mender
  mender-artifact write module-image -T rawdev -t "$3" -n "$1" -f payload "${sign[@]}" -o case.mender --compression none >/dev/null 2>&1; }
mender_install() {
  rm -rf md; mkdir -p md/etc md/share/modules/v3 md/share/identity md/share/inventory md/data/scripts
  printf '#!/bin/sh\ncase $1 in\nDownload) cat "$(cat stream-next)" > %s && sync %s ;;\nSupportsRollback) echo No ;;\nNeedsArtifactReboot) echo No ;;\nesac\n' "$B" "$B" > md/share/modules/v3/rawdev
  chmod 755 md/share/modules/v3/rawdev; echo artifact_name=2.0.0 > md/etc/artifact_info; echo device_type=bench > md/device_type
  local key="\"ArtifactVerifyKey\":\"$W/good.mpub\","; [[ ${1:-} == noverify ]] && key=
  [[ ${1:-} == nokeyfile ]] && key="\"ArtifactVerifyKeys\":[\"$W/none.pub\"],"
  echo "{$key\"DeviceTypeFile\":\"$W/md/device_type\"}" > md/mender.conf
  timeout 60 unshare --mount sh -c 'mount --bind md/etc /etc/mender; mount --bind md/share /usr/share/mender; exec mender --config md/mender.conf --data $0/md/data --no-syslog install case.mender' "$W" >/dev/null 2>&1
}

bundle_of() { case $1 in rauc) echo case.raucb ;; swupdate) echo case.swu ;; mender) echo case.mender ;; esac; }
flip() { printf '\xff\x00' | dd of="$1" bs=1 seek=3000000 conv=notrunc status=none; }

# play ROW: for each peer, CASE_peer makes the bundle and installs it, or there is none.
play() {
  local row=$1 name=$2 peer
  for peer in "${M[@]}"; do
    if ! has_$peer; then RESULT[$row,$peer]="not installed here"; continue; fi
    if ! declare -F "${name}_$peer" >/dev/null; then RESULT[$row,$peer]="—"; continue; fi
    reset; "${name}_$peer"; rc=$?
    if [[ $rc == 99 ]]; then RESULT[$row,$peer]="—"; continue; fi
    RESULT[$row,$peer]=$(outcome $rc)
    echo "$row	$peer	${RESULT[$row,$peer]}" >&2
  done
}
older_rauc() { rauc_bundle 1.0.0 good bench; rauc_install; }
older_swupdate() { swupdate_bundle 1.0.0 good 1.0; swupdate_install; }
older_mender() { mender_bundle 1.0.0 good bench; mender_install; }
# min-bundle-version came with RAUC 1.13; an older one ends on a key that it does not know.
rauc_has_floor() { printf '[system]\ncompatible=x\nbootloader=noop\nmin-bundle-version=1\n' > probe.conf; [[ $(rauc -c probe.conf status 2>&1) != *min-bundle-version* ]]; }
floor_rauc() { rauc_has_floor || return 99; rauc_bundle 1.0.0 good bench; rauc_install min-bundle-version=2.0.0; }
floor_swupdate() { swupdate_bundle 1.0.0 good 1.0; swupdate_install -N 2.0.0; }
ignore_rauc() { rauc_has_floor || return 99; rauc_bundle 1.0.0 good bench; rauc_install min-bundle-version=2.0.0 --ignore-version-limit; }
named_swupdate() { swupdate_bundle v1.0 good 1.0; swupdate_install -N 2.0.0; }
named_rauc() { rauc_has_floor || return 99; rauc_bundle v1.0 good bench; rauc_install min-bundle-version=2.0.0; }
release1_swupdate() { swupdate_bundle release-1 good 1.0; swupdate_install -N 2.0.0; }
release1_rauc() { rauc_has_floor || return 99; rauc_bundle release-1 good bench; rauc_install min-bundle-version=2.0.0; }
unsigned_rauc() { rauc_bundle 2.1.0 good bench; mksquashfs rb case.raucb -noappend -quiet >/dev/null 2>&1; rauc_install; }
unsigned_swupdate() { swupdate_bundle 2.1.0 good 1.0 unsigned; swupdate_install; }
unsigned_mender() { mender_bundle 2.1.0 - bench; mender_install; }
default_mender() { mender_bundle 2.1.0 - bench; mender_install noverify; }
default_swupdate() { swupdate_bundle 2.1.0 good 1.0 unsigned; timeout 60 swupdate -H bench:1.0 -M -m -i case.swu >/dev/null 2>&1; }
wrong_rauc() { rauc_bundle 2.1.0 wrong bench; rauc_install; }
wrong_swupdate() { swupdate_bundle 2.1.0 wrong 1.0; swupdate_install; }
wrong_mender() { mender_bundle 2.1.0 wrong bench; mender_install; }
wrongdefault_mender() { mender_bundle 2.1.0 wrong bench; mender_install noverify; }
nokey_mender() { mender_bundle 2.1.0 wrong bench; mender_install nokeyfile; }
nokey_swupdate() { swupdate_bundle 2.1.0 wrong 1.0; timeout 60 swupdate -H bench:1.0 -k none.crt -M -m -i case.swu >/dev/null 2>&1; }
empty_swupdate() { swupdate_bundle 2.1.0 good 1.0 empty; swupdate_install; }
hardware_rauc() { rauc_bundle 2.1.0 good other; rauc_install; }
hardware_swupdate() { swupdate_bundle 2.1.0 good 9.0; swupdate_install; }
hardware_mender() { mender_bundle 2.1.0 good other; mender_install; }
expired_rauc() { rauc_bundle 2.1.0 expired bench "2020-01-02"; rauc_install; }
expired_swupdate() { swupdate_bundle 2.1.0 expired 1.0; swupdate_install; }
flip_rauc() { rauc_bundle 2.1.0 good bench; flip case.raucb; rauc_install; }
flip_swupdate() { swupdate_bundle 2.1.0 good 1.0; flip case.swu; swupdate_install; }
flip_mender() { mender_bundle 2.1.0 good bench; flip case.mender; mender_install; }
cut_rauc() { rauc_bundle 2.1.0 good bench; truncate -s 2500000 case.raucb; rauc_install; }
cut_swupdate() { swupdate_bundle 2.1.0 good 1.0; truncate -s 2500000 case.swu; swupdate_install; }
cut_mender() { mender_bundle 2.1.0 good bench; truncate -s 2500000 case.mender; mender_install; }
genuine_rauc() { rauc_bundle 2.1.0 good bench; rauc_install; }
genuine_swupdate() { swupdate_bundle 2.1.0 good 1.0; swupdate_install; }
genuine_mender() { mender_bundle 2.1.0 good bench; mender_install; }

# Rows: name here, name of the case in TestAttack, functions of the peers.
rows=(
  "genuine release (the control)|-|genuine"
  "older release, validly signed|older release, validly signed|older"
  "the same, with the floor that the tool offers at 2.0.0|older release, validly signed|floor"
  "the same, with the option that ignores the floor|older release, validly signed|ignore"
  "older release called v1.0, floor 2.0.0|older release named v1.0|named"
  "older release called release-1, floor 2.0.0|older release named release-1|release1"
  "unsigned|unsigned|unsigned"
  "unsigned, default configuration|unsigned|default"
  "wrong key|wrong key|wrong"
  "wrong key, default configuration|wrong key|wrongdefault"
  "wrong key, and the file with the right one is missing|key file missing|nokey"
  "signature of 0 bytes|signature of 0 bytes|empty"
  "wrong hardware|wrong hardware|hardware"
  "signer expired|expired signer|expired"
  "bit flip in the payload|bit flip in the image|flip"
  "cut short|image cut short|cut"
  "nothing newer is shown (freeze)|frozen: nothing newer is shown|none"
  "metadata of last week again|old metadata again|none"
  "old and new metadata mixed|old and new metadata mixed|none"
)
for r in "${rows[@]}"; do IFS='|' read -r row _ name <<<"$r"; play "$row" "$name"; done
# A peer that does not install what is genuine would look as if it refused everything.
for peer in "${M[@]}"; do
  has_$peer && [[ ${RESULT["genuine release (the control)",$peer]} != "**installed**" ]] && { echo "attacks: $peer does not install the genuine release here" >&2; exit 1; }
done
ours=$(cd "$top" && go test -count=1 -v -run TestAttack ./update/updatetest | sed -n 's/.*row	/row	/p')
[[ -n $ours ]] || { echo "attacks: backstay's own test did not run" >&2; exit 1; }
ours_of() { # case
  local l; l=$(awk -F'\t' -v c="$1" '$2==c' <<<"$ours"); [[ -n $l ]] || { echo "?"; return; }
  local code touched; code=$(cut -f3 <<<"$l") touched=$(cut -f4 <<<"$l")
  [[ $touched == true ]] && echo "dirty, disarmed (\`$code\`)" || echo "refused (\`$code\`)"
}
version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null || echo none; }
cat <<PAGE
# Attacks, played

The same attempts on the slot that does not run, against backstay and the update agents of this machine. Made by
\`make attack-matrix\`; every case of ours is also a test that runs with the others, \`update/updatetest/attack_test.go:TestAttack\`, and
looks at the slots, the boot loader's choice and the floor afterwards, and then installs a genuine release.

Measured on $(date -u +%F) with RAUC $(version rauc), SWUpdate $(version swupdate), Mender's client $(version mender-client), all from
Debian $(cat /etc/debian_version). Each has a key configured unless the row says otherwise.

- **installed**: the attacker's payload is in the slot and the tool said that all is well
- refused: the tool said no and the slot is as it was
- dirty: the tool said no and had written to the slot; disarmed: the boot loader was told before the first byte that this slot is not started
- —: the tool has no such thing; "nothing done": it ended well without doing anything

| attack | RAUC | SWUpdate | Mender | backstay |
|---|---|---|---|---|
PAGE
for r in "${rows[@]}"; do IFS='|' read -r row case name <<<"$r"
  if [[ $case == - ]]; then own="installed"; else own=$(ours_of "$case"); fi
  [[ $name == none ]] && { echo "| $row | not detectable | not detectable | not detectable | $own |"; continue; }
  echo "| $row | ${RESULT[$row,rauc]/\*\*installed\*\*/$([[ $name == genuine ]] && echo installed || echo "**installed**")} | ${RESULT[$row,swupdate]/\*\*installed\*\*/$([[ $name == genuine ]] && echo installed || echo "**installed**")} | ${RESULT[$row,mender]/\*\*installed\*\*/$([[ $name == genuine ]] && echo installed || echo "**installed**")} | $own |"
done
cat <<'PAGE'

The bundles of RAUC, SWUpdate and Mender carry no statement of what is newest, so a server that withholds a release, or offers
last week's, cannot be told from one that has nothing new. backstay's metadata is signed with a date and a version (TUF).

## More that is played against backstay

| attempt | end |
|---|---|
PAGE
for r in "${rows[@]}"; do IFS='|' read -r _ case _ <<<"$r"; printf '%s\n' "$case"; done > shown
while IFS=$'\t' read -r _ case code touched; do
  grep -qxF "$case" shown && continue
  echo "| $case | $([[ $touched == true ]] && echo "dirty, disarmed" || echo refused) (\`$code\`) |"
done <<<"$ours"
cat <<'PAGE'

`nothing` is no refusal but the answer that there is nothing to install; `retry` is an error after which the device asks again
later, and goes on where it was.

## Faults that others had to publish

Each is held by the tests named beside it, and `update/updatetest/cve_test.go:TestFaults` holds that those tests exist.

| fault | what it was | held by |
|---|---|---|
PAGE
(cd "$top" && go test -count=1 -v -run TestFaults ./update/updatetest | sed -n 's/.*fault	//p' | awk -F'\t' '{print "| ["$1"]("$2") | "$3" | "$4" |"}')
