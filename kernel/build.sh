#!/bin/sh
# Builds the gourd kernel: kernel/build.sh CACHE
# Leaves CACHE/kernels/gourd -> gourd-HASH/{vmlinux,config,release}, where HASH covers everything
# that decides the bytes: configuration, this script, source package, compiler. Quick when it is there.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
out=$1/kernels
series=6.12
source=/usr/src/linux-source-$series.tar.xz

hash=$({
    cat "$here/x86_64.config" "$here/build.sh"
    dpkg-query -W -f '${Version}' "linux-source-$series"
    gcc -dumpfullversion
} | sha256sum | cut -c1-16)

publish() {
    ln -sfn "gourd-$hash" "$out/.gourd.$$"
    mv -T "$out/.gourd.$$" "$out/gourd"
}

mkdir -p "$out"
# One build at a time; whoever waited finds it done.
exec 9>"$out/build.lock"
flock 9
if [ -f "$out/gourd-$hash/release" ]; then
    publish
    exit 0
fi

work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
echo "kernel: building $series with $(nproc) processors; this takes 10 to 20 minutes on two" >&2
tar -C "$work" -xf "$source"
src=$work/linux-source-$series
obj=$work/obj

# The same inputs give the same bytes.
export KBUILD_BUILD_USER=gourd KBUILD_BUILD_HOST=gourd KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_TIMESTAMP='2026-01-01 00:00:00 +0000'

make -s -C "$src" O="$obj" KCONFIG_ALLCONFIG="$here/x86_64.config" allnoconfig >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }

# Kconfig drops what it cannot satisfy without a word: say it here.
lost=$(grep '^CONFIG_' "$here/x86_64.config" | while IFS= read -r line; do
    case $line in
    *=n) ! grep -q "^${line%=n}=" "$obj/.config" || echo "$line" ;;
    *) grep -qxF "$line" "$obj/.config" || echo "$line" ;;
    esac
done)
if [ -n "$lost" ]; then
    echo "kernel: these lines of x86_64.config did not survive Kconfig:" "$lost" >&2
    exit 1
fi

nice -n 19 make -s -C "$src" O="$obj" -j"$(nproc)" vmlinux >"$work/log" 2>&1 ||
    { tail -n 50 "$work/log" >&2; exit 1; }

mkdir "$work/result"
strip -s -o "$work/result/vmlinux" "$obj/vmlinux"
# Machine monitors start the kernel at the address in its PVH note (type 18, XEN_ELFNOTE_PHYS32_ENTRY).
readelf -n "$work/result/vmlinux" 2>/dev/null | grep -q Xen ||
    { echo "kernel: the stripped vmlinux has lost its PVH note" >&2; exit 1; }
cp "$obj/.config" "$work/result/config"
cp "$obj/include/config/kernel.release" "$work/result/release"
chmod -R a+rX "$work/result"
rm -rf "$out/gourd-$hash"
mv "$work/result" "$out/gourd-$hash"
publish
