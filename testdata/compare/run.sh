#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh ROOTS RESULTS [KIND...]    (as root; ROOTS is what mkroots.sh made)
#
# Runs backstay and three other checkers on the same roots, one after the other, and prints a Markdown table; what was missed,
# and what was said about the clean twin, goes to standard error. Every tool gets its best way of working:
#
#   backstay   the rules of the profiles in PROFILES on the directory, as an image
#   lynis      run inside the root, as on a running system (its way of looking at another directory mixes in the host)
#   oscap      inside the Debian root, as on a running system; with oscap-chroot on the others, which have no oscap. All rules
#              of Debian's newest content are asked. It is for Debian 11 and answers "not applicable" to everything else, so
#              the root says 11 in /etc/debian_version while it runs
#   khc        kernel-hardening-checker with the kernel configuration, boot arguments and sysctl settings of the root
#
# A defect counts as found by a peer when any finding that is on the planted root and not on the clean one speaks of it
# (peers.tsv). Debian packages: openscap-scanner openscap-utils ssg-debian time. LYNIS and KHC are the folders of the
# repositories github.com/CISOfy/lynis and github.com/a13xp0p0v/kernel-hardening-checker.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
roots=${1:?usage: run.sh ROOTS RESULTS [KIND...]} results=${2:?}; shift 2
kinds=("$@"); ((${#kinds[@]})) || kinds=(busybox debian alpine)
mkdir -p "$results"; roots=$(realpath "$roots") results=$(realpath "$results")
content=${CONTENT:-/usr/share/xml/scap/ssg/content/ssg-debian11-ds.xml}
read -r -a profiles <<<"${PROFILES:-base camera}"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

(cd "$here" && go build -o "$work/compare" .) || exit 1
timed() { local name=$1; shift; /usr/bin/time -f '%e %U %S %M' -o "$results/$name.time" "$@"; }
upper() { rm -rf "$work/upper" "$work/upper.work" "$work/upper.at"; mkdir -p "$work/upper"; }

backstay() { timed "$1.$2.backstay" "$work/compare" scan "$roots/$1/$2" "${profiles[@]}" > "$results/$1.$2.backstay"; }

lynis() {
  [[ -d ${LYNIS:-} ]] || return 0
  upper; cp -a "$LYNIS" "$work/upper/lynis"; rm -rf "$work/upper/lynis/.git"
  timed "$1.$2.lynis" "$here/inroot.sh" "$roots/$1/$2" "$work/upper" /bin/sh -c \
    'cd /lynis && ./lynis audit system --no-colors --quick --logfile /lynis.log --report-file /lynis.dat' > "$results/$1.$2.lynis.out" 2>&1 </dev/null
  cp "$work/upper/lynis.dat" "$results/$1.$2.lynis"
}

oscap_() {
  command -v oscap >/dev/null && [[ -r $content ]] || return 0
  upper; mkdir -p "$work/upper/etc"; echo 11.9 > "$work/upper/etc/debian_version"
  local args=(xccdf eval --skip-valid --profile '(all)')
  if [[ -x $roots/$1/$2/usr/bin/oscap ]]; then
    cp "$content" "$work/upper/ds.xml"
    timed "$1.$2.oscap" "$here/inroot.sh" "$roots/$1/$2" "$work/upper" oscap "${args[@]}" --results /result.xml /ds.xml > "$results/$1.$2.oscap.out" 2>&1
    cp "$work/upper/result.xml" "$results/$1.$2.oscap"
  else
    mkdir -p "$work/upper.work" "$work/upper.at"
    mount -t overlay overlay -o "lowerdir=$roots/$1/$2,upperdir=$work/upper,workdir=$work/upper.work" "$work/upper.at"
    timed "$1.$2.oscap" oscap-chroot "$work/upper.at" "${args[@]}" --results "$results/$1.$2.oscap" "$content" > "$results/$1.$2.oscap.out" 2>&1
    umount "$work/upper.at"
  fi
}

# khc reads what "sysctl -a" prints: here, what the files of the root would set, the last one winning.
khc() {
  [[ -d ${KHC:-} ]] || return 0
  local r=$roots/$1/$2
  sed -n 's/^bootargs=//p' "$r/boot/uEnv.txt" > "$work/cmdline"
  cat "$r"/etc/sysctl.d/*.conf "$r/etc/sysctl.conf" 2>/dev/null | sed -n 's/^-//; s,/,.,g; s/^ *\([a-z][^ =]*\) *= */\1 = /p' |
    awk -F' = ' '{v[$1]=$2} END{for(k in v) print k " = " v[k]}' > "$work/sysctl"
  timed "$1.$2.khc" python3 "$KHC/bin/kernel-hardening-checker" -c "$r/boot/config-6.1.0" -l "$work/cmdline" -s "$work/sysctl" > "$results/$1.$2.khc" 2>&1
}

printf '| root | tool | found | missed | findings on the clean twin | wall | processor | peak RSS |\n|---|---|---|---|---|---|---|---|\n'
for kind in "${kinds[@]}"; do
  for twin in clean planted; do
    for tool in ${TOOLS:-backstay lynis oscap_ khc}; do $tool "$kind" "$twin"; done
  done
  "$work/compare" score "$kind" "$roots" "$results"
done
