#!/bin/sh
# The symbols of libattnd.so and libattnd.a are exactly those of tests/abi/symbols.txt; the shared library needs
# nothing but the C library and libsodium, and has the name that programs are linked to.
set -eu
build=${ATTND_BUILD:-build}
library=$build/libattnd.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -e "$library" ] || { echo "$library is not there: make it first"; exit 1; }
case ${ATTND_SUITE:-plain} in
plain | clang) ;;
*) echo "SKIP: a sanitizer's library has symbols of its own"; exit 77 ;;
esac

nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | LC_ALL=C sort >"$work/so"
nm -g --defined-only "$build/libattnd.a" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort >"$work/a"
for kind in so a; do
	diff -u tests/abi/symbols.txt "$work/$kind" || { echo "libattnd.$kind exports something else"; exit 1; }
done

readelf -d "$library" | grep -q 'SONAME.*\[libattnd.so.0\]' || { echo "the soname has changed"; exit 1; }
needed=$(readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libsodium|ld-linux.*)\.so' || true)
[ -z "$needed" ] || { echo "libattnd.so needs $needed"; exit 1; }
echo "$(wc -l <"$work/so") symbols as listed"
