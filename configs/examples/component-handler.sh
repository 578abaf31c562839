#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Example of a component handler (docs/components.md): a microcontroller whose flash tool takes an image file. Replace the two
# functions. The agent runs it as "component-handler.sh DIRECTORY OPERATION"; DIRECTORY keeps the images and must be durable.
set -eu
dir=$1 op=$2 part=$1/$BACKSTAY_COMPONENT version=$BACKSTAY_VERSION

running() { cat "$part.running" 2>/dev/null || echo none; } # ask the device itself where it can tell
keep() { # a file as a whole or not at all
  cat > "$part.tmp"; sync "$part.tmp"; mv "$part.tmp" "$1"; sync "$dir"
}
flash() { # the image of a version: returns when the device has restarted with it and answers
  [ -e "$part.image-$1" ] || { echo "there is no image of version $1" >&2; exit 1; }
  cp "$part.image-$1" "$part.flash" # this line stands for the tool that writes the device
  echo "$1" | keep "$part.running"
}

case $op in
  version) echo "version=$(running)" ;;
  install) # the image runs nowhere yet; a cut install begins anew. The running one stays, to go back to.
    for old in "$part".image-*; do
      [ "$old" = "$part.image-$(running)" ] || rm -f "$old"
    done
    keep "$part.image-$version" ;;
  verify) # what was stored, read again
    set -- $(sha256sum "$part.image-$version")
    echo "sha256=$1" ;;
  activate) # is called again after a cut, and then finds what is done
    if [ "$(running)" != "$version" ]; then
      running | keep "$part.before"
      flash "$version"
    fi ;;
  rollback) # without an activate before it there is nothing to do
    if [ "$(running)" = "$version" ]; then flash "$(cat "$part.before")"; fi ;;
  *) echo "operation $op is not known" >&2; exit 5 ;;
esac
