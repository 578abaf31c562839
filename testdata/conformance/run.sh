#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs the public TUF conformance suite against the client built from update/trust.
#
#   testdata/conformance/run.sh DIRECTORY [pytest arguments]
#
# DIRECTORY holds clones of three public repositories, at the revisions this was written for:
#
#   git clone https://github.com/theupdateframework/tuf-conformance   && git -C tuf-conformance  checkout eec841c186f8
#   git clone https://github.com/theupdateframework/python-tuf        && git -C python-tuf       checkout 4abccdcf2ea8
#   git clone https://github.com/secure-systems-lab/securesystemslib  && git -C securesystemslib checkout v1.4.0
#
# and the machine has the Debian packages python3-cryptography python3-pytest faketime (or pip's equivalents for $PYTHON).
# Everything runs on loopback and nothing is installed. 113 tests, all of which must pass: there is no list of expected
# failures. The client is bin/conformance-client, which `make conformance` builds first; it is built here if absent.
set -eu

if [ $# -lt 1 ] || [ ! -d "$1/tuf-conformance" ] || [ ! -d "$1/python-tuf" ] || [ ! -d "$1/securesystemslib" ]; then
	echo "error: give the directory that holds tuf-conformance, python-tuf and securesystemslib" >&2
	echo "next:  see the top of $0 for how to get them" >&2
	exit 2
fi
suite=$(cd "$1" && pwd)
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
client=$root/bin/conformance-client
if [ ! -x "$client" ]; then
	(cd "$root" && CGO_ENABLED=0 go build -o "$client" ./update/trust/conformance)
fi

# securesystemslib names two types that python3-cryptography has under these names from version 40 on.
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
cat >"$shim/sitecustomize.py" <<'P'
try:
    from cryptography.hazmat.primitives.asymmetric import types
    if not hasattr(types, "PrivateKeyTypes"):
        types.PrivateKeyTypes = types.PRIVATE_KEY_TYPES
        types.PublicKeyTypes = types.PUBLIC_KEY_TYPES
except ImportError:
    pass
P

cd "$suite/tuf-conformance"
PYTHONPATH="$shim:$suite/securesystemslib:$suite/python-tuf:$suite/tuf-conformance" PYTHONDONTWRITEBYTECODE=1 \
	"${PYTHON:-/usr/bin/python3}" -m pytest -q -p no:cacheprovider tuf_conformance --entrypoint "$client" "$@"
