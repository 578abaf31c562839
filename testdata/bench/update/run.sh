#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh [FLAGS OF main.go]    (as root)
#
# Installs the peers that are missing, from Debian, and runs the comparison. Their services are not started. dbus is for RAUC's
# client, which talks to its service.
set -euo pipefail
cd "$(dirname "$0")/../../.."
packages=()
need() { [[ -x $2 ]] || packages+=("$1"); }
need rauc /usr/bin/rauc
need rauc-service /usr/share/dbus-1/system-services/de.pengutronix.rauc.service
need dbus-bin /usr/bin/dbus-send
need dbus-daemon /usr/bin/dbus-run-session
need swupdate /usr/bin/swupdate
need mender-client /usr/bin/mender
need mender-artifact /usr/bin/mender-artifact
need curl /usr/bin/curl
need cpio /usr/bin/cpio
need openssl /usr/bin/openssl
if ((${#packages[@]})); then
  echo "install: ${packages[*]}" >&2
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || echo "some are not to be had: they are left out" >&2
fi
go run ./testdata/bench/update "$@"
