#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Buildroot: scan the root file system at the end of the build, and fail the build on findings.
#
#   BR2_ROOTFS_POST_IMAGE_SCRIPT="board/acme/post-image-scan.sh"
#   BR2_TARGET_ROOTFS_SQUASHFS=y        (or EXT2, TAR, CPIO: any image that backstayctl reads)
#
# Buildroot calls it with the images directory and runs it without privilege. It scans an image and not $TARGET_DIR: owners,
# modes and device nodes of the target exist only in the images, which are made under fakeroot.
#
# What to set, in the environment of make or here:
BACKSTAYCTL=${BACKSTAYCTL:-backstayctl}
BACKSTAY_PROFILES=${BACKSTAY_PROFILES:-base}   # words: base, router, camera, gateway, federal
BACKSTAY_FAIL_ON=${BACKSTAY_FAIL_ON:-low}      # low, medium, high, critical, never
BACKSTAY_BASELINE=${BACKSTAY_BASELINE:-}       # file of known findings, under version control
BACKSTAY_POLICY=${BACKSTAY_POLICY:-}           # your policy over the profiles: more rules, waivers
BACKSTAY_IMAGE=${BACKSTAY_IMAGE:-}             # an image; default the first of those below that was built

set -eu
images=${1:-${BINARIES_DIR:?}}

if [ -z "$BACKSTAY_IMAGE" ]; then
	for name in rootfs.squashfs rootfs.ext4 rootfs.ext3 rootfs.ext2 rootfs.tar rootfs.tar.gz rootfs.tar.xz rootfs.tar.zst \
		rootfs.tar.bz2 rootfs.cpio rootfs.cpio.gz rootfs.cpio.xz rootfs.cpio.zst; do
		if [ -e "$images/$name" ]; then
			BACKSTAY_IMAGE=$images/$name
			break
		fi
	done
fi
if [ -z "$BACKSTAY_IMAGE" ]; then
	echo "post-image-scan: no image in $images that backstayctl reads; enable BR2_TARGET_ROOTFS_TAR" >&2
	exit 1
fi

set -- --fail-on "$BACKSTAY_FAIL_ON" --sarif "$images/backstay.sarif" --junit "$images/backstay.junit.xml"
for profile in $BACKSTAY_PROFILES; do
	set -- "$@" --profile "$profile"
done
if [ -n "$BACKSTAY_BASELINE" ]; then set -- "$@" --baseline "$BACKSTAY_BASELINE"; fi
if [ -n "$BACKSTAY_POLICY" ]; then set -- "$@" --policy "$BACKSTAY_POLICY"; fi
exec "$BACKSTAYCTL" scan "$@" "$BACKSTAY_IMAGE"
