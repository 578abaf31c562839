# SPDX-License-Identifier: Apache-2.0
#
# Yocto: scan the root file system of an image recipe when its images are made, and fail the build on findings.
#
# In conf/local.conf, or in the distribution's configuration:
#
#   HOSTTOOLS += "backstayctl"          (it has to be in PATH when bitbake starts)
#   IMAGE_CLASSES += "backstay-scan"
#
# It scans an image file when one is made that backstayctl reads, and the tree itself otherwise, through tar: owners and modes
# of the tree exist only inside of pseudo, which a static program like backstayctl does not see, and tar does.

BACKSTAYCTL ?= "backstayctl"
BACKSTAY_PROFILES ?= "base"
BACKSTAY_FAIL_ON ?= "low"
# A file of known findings and a policy over the profiles, both optional: ${THISDIR} is not known here, so give whole paths.
BACKSTAY_BASELINE ?= ""
BACKSTAY_POLICY ?= ""
# Types of IMAGE_FSTYPES to look for, the first one made counts.
BACKSTAY_TYPES ?= "squashfs squashfs-xz squashfs-zst squashfs-lz4 squashfs-lzo ext4 ext3 ext2 tar.zst tar.gz tar.xz tar.bz2 tar cpio.gz cpio.xz cpio.zst cpio"

IMAGE_POSTPROCESS_COMMAND:append = " backstay_scan;"

backstay_scan() {
	set -- --fail-on "${BACKSTAY_FAIL_ON}" --sarif "${IMGDEPLOYDIR}/${IMAGE_NAME}.backstay.sarif" --junit "${IMGDEPLOYDIR}/${IMAGE_NAME}.backstay.junit.xml"
	for backstay_word in ${BACKSTAY_PROFILES}; do
		set -- "$@" --profile "$backstay_word"
	done
	if [ -n "${BACKSTAY_BASELINE}" ]; then
		set -- "$@" --baseline "${BACKSTAY_BASELINE}"
	fi
	if [ -n "${BACKSTAY_POLICY}" ]; then
		set -- "$@" --policy "${BACKSTAY_POLICY}"
	fi
	for backstay_word in ${BACKSTAY_TYPES}; do
		# IMAGE_NAME_SUFFIX (.rootfs) was a part of its own before Yocto 4.3.
		for backstay_image in "${IMGDEPLOYDIR}/${IMAGE_NAME}.$backstay_word" "${IMGDEPLOYDIR}/${IMAGE_NAME}.rootfs.$backstay_word"; do
			if [ -e "$backstay_image" ]; then
				"${BACKSTAYCTL}" scan "$@" "$backstay_image"
				return
			fi
		done
	done
	tar -C "${IMAGE_ROOTFS}" --xattrs --xattrs-include='*' -cf - . | "${BACKSTAYCTL}" scan "$@" -
}
