#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh mipsel|armhf PACKAGE [TEST-ARGUMENT...]
#
# Runs the tests of one package as root on a real kernel of another architecture, in QEMU: for what the emulation of single
# programs has not (fanotify, the proc connector, sock_diag, uevents, the kernel's audit, MTD and UBI). Kernel and programs are
# Debian's, downloaded once into GUEST_CACHE (~/.cache/backstay-guest) without touching this machine's list of architectures.
# Packages: qemu-system-mips or qemu-system-arm, cpio, kmod.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
arch=${1:?usage: run.sh mipsel|armhf PACKAGE [TEST-ARGUMENT...]} package=${2:?}; shift 2
cache=${GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/backstay-guest}/$arch
case $arch in
  mipsel) flavour=4kc-malta goenv=(GOARCH=mipsle GOMIPS=softfloat) console=ttyS0 qemu=(qemu-system-mipsel -M malta -cpu 24Kf) ;;
  armhf) flavour=armmp goenv=(GOARCH=arm GOARM=7) console=ttyAMA0 qemu=(qemu-system-arm -M virt -cpu cortex-a15) ;;
  *) echo "run.sh: architecture $arch" >&2; exit 2 ;;
esac
for p in "${qemu[0]}" cpio depmod dpkg-deb; do
  command -v "$p" >/dev/null || { echo "run.sh: $p is missing (packages qemu-system-mips qemu-system-arm cpio kmod)" >&2; exit 77; }
done

if [[ ! -e $cache/programs/done ]]; then
  mkdir -p "$cache"/{state/lists/partial,archives/partial,debs,kernel}; : > "$cache/status"
  apt=(-o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o "Dir::State=$cache/state" -o "Dir::State::status=$cache/status" -o "Dir::Cache=$cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update -qq || echo "run.sh: not every package index could be read; going on with the others" >&2
  image=$(apt-cache "${apt[@]}" depends "linux-image-$flavour" | awk '/Depends: linux-image-/{print $2; exit}')
  (cd "$cache/debs" && apt-get "${apt[@]}" download "$image" busybox-static klibc-utils libklibc)
  dpkg-deb -x "$cache"/debs/linux-image-*.deb "$cache/kernel"
  for deb in "$cache"/debs/{busybox-static,klibc-utils,libklibc}_*.deb; do dpkg-deb -x "$deb" "$cache/programs"; done
  depmod -b "$cache/kernel" "$(ls "$cache/kernel/lib/modules")"
  touch "$cache/programs/done"
fi
release=$(ls "$cache/kernel/lib/modules") modules=$cache/kernel/lib/modules/$(ls "$cache/kernel/lib/modules")

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # it becomes the root directory
mkdir -p "$work"/{tests,bin,lib/modules,proc,sys,dev,tmp,run}
(cd "$root" && env CGO_ENABLED=0 GOOS=linux "${goenv[@]}" go build -trimpath -ldflags='-s -w' -o "$work/init" ./testdata/guest/init)
(cd "$root" && env CGO_ENABLED=0 GOOS=linux "${goenv[@]}" go test -c -trimpath -ldflags='-s -w' -o "$work/tests/package.test" "$package")
echo "-test.timeout=10m -test.v $*" > "$work/tests/package.args"
# What the tests need that the kernel has as a module, with what each depends on, in order.
for m in inet_diag tcp_diag udp_diag configfs bridge loop nandsim mtdram block2mtd ubi softdog dummy libcomposite; do
  line=$(grep -E "/$m\.ko:" "$modules/modules.dep" || true)
  [[ -n $line ]] || continue
  for f in $(tr ' ' '\n' <<<"${line#*:}" | tac) "${line%%:*}"; do
    name=$(basename "$f")
    [[ -e $work/lib/modules/$name ]] && continue
    cp "$modules/$f" "$work/lib/modules/"
    # These stay unloaded: tests load them to see that it is noticed, or with arguments of their own (a flash of some geometry).
    case $m in dummy | libcomposite | nandsim | mtdram | block2mtd | softdog) [[ $name == "${m//-/_}.ko" ]] && continue ;; esac
    echo "$name" >> "$work/modules"
  done
done
cp "$cache/programs/bin/busybox" "$work/bin/"
for applet in sh cat false echo ls mkdir touch chmod kill; do ln -s busybox "$work/bin/$applet"; done
# Programs that are files of their own, small and with a loader, as tests copy them to other names.
cp "$cache"/programs/usr/lib/klibc/bin/{sleep,true} "$work/bin/"; cp "$cache"/programs/lib/klibc-*.so "$work/lib/"
(cd "$work" && find . | cpio -o -H newc --quiet | gzip -1 > "$work.initrd"); trap 'rm -rf "$work" "$work.initrd"' EXIT
timeout "${GUEST_TIMEOUT:-900}" "${qemu[@]}" -m 512 -nographic -vga none -no-reboot -net none -kernel "$cache"/kernel/boot/vmlinu[xz]-"$release" \
  -initrd "$work.initrd" -append "console=$console panic=-1 quiet" </dev/null | tee "$work.log" | tr -d '\r'
grep -q '^GUEST-PASS' <(tr -d '\r' < "$work.log") && rm -f "$work.log" || { rm -f "$work.log"; echo "run.sh: tests failed in the guest" >&2; exit 1; }
