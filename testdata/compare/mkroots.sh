#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: mkroots.sh OUT [busybox] [debian] [alpine]
#
# Makes, for each kind, OUT/KIND/clean and OUT/KIND/planted, and OUT/KIND.json: the planted defects and the traps, one JSON
# object a line. The planted root is the clean one with every defect of defects.sh. With ONLY="B01 B07" just these are planted.
#
# The defects come from the catalogue text of the guidelines, from advisories and from what worms try, not from our rules:
# this is a second opinion beside testdata/plantroot. Needs root (owners, device nodes, file capabilities). The roots are
# insecure by purpose: OUT should be a directory that only its owner can enter. Packages: busybox-static dropbear-bin openssl
# libcap2-bin; for debian also mmdebstrap (or DEBIAN_TAR=file); for alpine ALPINE_TAR=alpine-minirootfs-3.20.3-x86_64.tar.gz,
# which is in the repository github.com/alpinelinux/docker-alpine, branch v3.20, folder x86_64.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: mkroots.sh OUT [busybox] [debian] [alpine]}; shift
kinds=("$@"); ((${#kinds[@]})) || kinds=(busybox debian alpine)
((EUID == 0)) || { echo "mkroots: needs root, for owners, device nodes and file capabilities" >&2; exit 77; }
for p in busybox dropbear openssl setcap perl; do
  command -v $p >/dev/null || { echo "mkroots: $p is missing: apt-get install busybox-static dropbear-bin openssl libcap2-bin perl-base" >&2; exit 77; }
done
umask 022
mkdir -p "$out"; out=$(cd "$out" && pwd)
kind='' R='' list='' planting=''

# put FILE [MODE]: standard input becomes FILE of the root.
put() { mkdir -p "$R/$(dirname "$1")"; rm -f "$R/$1"; cat > "$R/$1"; chmod "${2:-644}" "$R/$1"; }
# add FILE: standard input goes to the end of FILE.
add() { [[ -e $R/$1 ]] || put "$1" </dev/null; cat >> "$R/$1"; }
# prog NAME: a program that is there and does nothing; what it is called is what a check looks at.
prog() { mkdir -p "$R/$(dirname "$1")"; ln -f "$R/usr/lib/stub" "$R/$1"; }
quoted() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g'; }
# record KIND ID PATH TEXT RULES MATCH...: a line of the list. RULES are globs of rule ids, with commas. A finding counts when its
# rule is one of them and it mentions one of MATCH (without any: PATH).
record() {
  local what=$1 id=$2 path=$3 text=$4 rules=$5 m='' w; shift 5
  for w in "$@"; do m+="${m:+,}\"$(quoted "$w")\""; done
  printf '{"kind":"%s","id":"%s","path":"%s","description":"%s","rules":["%s"],"match":[%s]}\n' \
    "$what" "$id" "$(quoted "$path")" "$(quoted "$text")" "${rules//,/\",\"}" "$m" >> "$list"
}
# defect ID PATH TEXT RULES MATCH...: true when it is to be planted.
defect() {
  [[ -n $planting ]] || return 1
  [[ -z ${ONLY:-} || " $ONLY " == *" $1 "* ]] || return 1
  record defect "$@"
}
# trap_ ID PATH TEXT: something that looks bad and is not; it is in both roots.
trap_() { [[ -n $planting ]] || record trap "$1" "$2" "$3" ''; }

# start NN NAME COMMAND...: the system starts COMMAND, in the way of its kind. It sets $at to the file that does.
start() {
  local n=$1 name=$2 words; shift 2
  read -r -a words <<<"${*//\"/\\\"}"
  case $kind in
  busybox)
    at=etc/init.d/S$n$name
    put "$at" 755 <<X
#!/bin/sh
case "\$1" in
start) $* ;;
esac
X
    ;;
  debian)
    at=etc/systemd/system/$name.service
    put "$at" <<X
[Unit]
Description=$name
[Service]
ExecStart=$*
[Install]
WantedBy=multi-user.target
X
    mkdir -p "$R/etc/systemd/system/multi-user.target.wants"
    ln -sf "/etc/systemd/system/$name.service" "$R/etc/systemd/system/multi-user.target.wants/$name.service" ;;
  alpine)
    at=etc/init.d/$name
    put "$at" 755 <<X
#!/sbin/openrc-run
command="${words[0]}"
command_args="${words[*]:1}"
command_background=yes
X
    mkdir -p "$R/etc/runlevels/default"; ln -sf "/etc/init.d/$name" "$R/etc/runlevels/default/$name" ;;
  esac
  [[ -z $planting ]] || sed -i "\$s#\"path\":\"start\"#\"path\":\"/$at\"#" "$list"
}

skeleton() {
  for d in bin sbin usr/bin usr/sbin usr/lib etc/init.d etc/default proc sys dev run tmp root home var/log var/tmp var/lib var/mail www boot etc/ssh \
    usr/share/doc lib; do mkdir -p "$R/$d"; done
  chmod 1777 "$R/tmp" "$R/var/tmp"; chmod 700 "$R/root"; chmod 2775 "$R/var/mail"
  cp /bin/true "$R/usr/lib/stub"
}

base_busybox() {
  skeleton
  cp "$(command -v busybox)" "$R/bin/busybox"
  chroot "$R" /bin/busybox --install -s /bin
  ln -sf ../bin/busybox "$R/sbin/init"
  for a in getty syslogd klogd telnetd httpd ntpd udhcpc mdev; do ln -sf /bin/busybox "$R/sbin/$a"; done
  cp "$(command -v dropbear)" "$R/usr/sbin/dropbear"
  for l in $(ldd "$(command -v dropbear)" | grep -o '/lib[^ ]*'); do mkdir -p "$R/$(dirname "$l")"; cp -L "$l" "$R/$l"; done
  put etc/os-release <<<$'NAME=Buildroot\nID=buildroot\nVERSION_ID=2024.02\nPRETTY_NAME="Buildroot 2024.02"'
  put etc/passwd <<'X'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
sshd:x:100:65534:SSH drop priv user:/var/empty:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
X
  put etc/group <<<$'root:x:0:\ndaemon:x:1:\nmail:x:8:\nwheel:x:10:root\nwww-data:x:33:\noperator:x:37:\nusers:x:100:\nnogroup:x:65534:'
  sed 's/:.*/:*:19000:0:99999:7:::/' "$R/etc/passwd" | put etc/shadow 600
  put etc/inittab <<'X'
# Startup the system
::sysinit:/bin/mount -t proc proc /proc
::sysinit:/bin/mount -a
::sysinit:/etc/init.d/rcS
# Put a getty on the serial port
#ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100 # GENERIC_SERIAL
#::respawn:/usr/sbin/telnetd -F -l /bin/sh
::respawn:/bin/sh -c "exec /usr/bin/app --foreground"
::ctrlaltdel:/bin/true
::shutdown:/bin/umount -a -r
X
  put etc/init.d/rcS 755 <<<$'#!/bin/sh\nfor i in /etc/init.d/S??*; do [ -x "$i" ] && "$i" start; done'
  start 50 dropbear '. /etc/default/dropbear; start-stop-daemon -S -q -p /var/run/dropbear.pid --exec /usr/sbin/dropbear -- $DROPBEAR_ARGS'
  put etc/default/dropbear <<<'DROPBEAR_ARGS="-sgjkRT3 -I 300 -p 192.168.1.1:22"'
  start 01 syslogd /sbin/syslogd -O /data/log/messages -s 200
}

base_debian() {
  if [[ -n ${DEBIAN_TAR:-} ]]; then mkdir -p "$R"; tar xpf "$DEBIAN_TAR" -C "$R"
  else mmdebstrap -q --variant=minbase \
    --include=systemd-sysv,openssh-server,cron,sudo,procps,iproute2,nftables,libpam-runtime,openscap-scanner,ca-certificates bookworm "$R"; fi
  skeleton
  rm -f "$R"/etc/ssh/ssh_host_*_key*                  # made at first start
  find "$R/dev" -mindepth 1 -delete
  sed -i 's/ nullok//' "$R"/etc/pam.d/common-auth     # Debian's default lets empty passwords in
  put etc/ssh/sshd_config.d/00-device.conf 600 <<'X'
PasswordAuthentication no
PermitRootLogin prohibit-password
X11Forwarding no
AllowTcpForwarding no
AllowAgentForwarding no
MaxAuthTries 4
LoginGraceTime 30
MaxSessions 4
MaxStartups 10:30:60
ClientAliveInterval 300
AcceptEnv none
X
  sed -i '/^AcceptEnv/d; /^X11Forwarding/d' "$R/etc/ssh/sshd_config"; chmod 600 "$R/etc/ssh/sshd_config"
  ln -s /dev/null "$R/etc/systemd/system/serial-getty@ttyS0.service" # systemd starts one for each console= of the kernel
  mkdir -p "$R/var/log/journal"; printf '[Journal]\nStorage=persistent\n' | put etc/systemd/journald.conf.d/device.conf
}

base_alpine() {
  local tar=${ALPINE_TAR:-alpine-minirootfs-3.20.3-x86_64.tar.gz}
  [[ -r $tar ]] || { echo "mkroots: set ALPINE_TAR to alpine-minirootfs-3.20.3-x86_64.tar.gz" >&2; return 77; }
  sha512sum "$tar" | grep -q ^9d5405f61f8a6ebc0246 || { echo "mkroots: $tar is not the published file" >&2; return 1; }
  mkdir -p "$R"; tar xpf "$tar" -C "$R"; skeleton
  for p in sbin/openrc sbin/openrc-run usr/sbin/sshd; do prog $p; done
  sed -i 's/^tty/#tty/' "$R/etc/inittab"              # no console login in a product
  start 01 syslogd /sbin/syslogd -n -O /data/log/messages -s 200
  start 50 sshd /usr/sbin/sshd -D
  put etc/ssh/sshd_config 600 <<<$'PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nAllowTcpForwarding no\nAllowAgentForwarding no\nX11Forwarding no\nMaxAuthTries 3\nLoginGraceTime 30\nMaxSessions 4\nMaxStartups 10:30:60\nClientAliveInterval 300\n#PermitEmptyPasswords yes\nPermitRootLogin yes'
  trap_ "${kind:0:1}T00" /etc/ssh/sshd_config 'a second PermitRootLogin yes: the first value wins'
}

. "$here/clean.sh"
. "$here/defects.sh"

for kind in "${kinds[@]}"; do
  declare -F "base_$kind" >/dev/null || { echo "mkroots: no kind $kind" >&2; exit 2; }
  mkdir -p "$out/$kind"; list=$out/$kind.json; : > "$list"
  rm -rf "$out/$kind/clean" "$out/$kind/planted"
  R=$out/$kind/clean; planting=''
  "base_$kind"; clean_common
  cp -a "$R" "$out/$kind/planted"
  R=$out/$kind/planted; planting=yes
  accounts_defects; service_defects; ssh_defects; key_defects; console_defects; boot_defects; net_defects; file_defects; update_defects
  "only_$kind"
  echo "$kind: $(grep -c '"defect"' "$list") defects, $(grep -c '"trap"' "$list") traps, $(find "$out/$kind/clean" | wc -l) files"
done
