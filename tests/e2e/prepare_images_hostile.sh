# Folders of images that try to break ohtrain prepare images: loops of links, folders that may not be read, sizes that would
# exhaust memory, files that vanish, many bad files, classes that one split lacks. One clear message, or a listed and skipped file.
set -u
work=$(mktemp -d) || exit 1
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
ranks() { local n=$1; shift; timeout 120 mpirun -np "$n" --oversubscribe --bind-to none "$@"; }
prepare() { timeout 120 "$OHTRAIN" prepare images "$@"; }
# same NAME OPTIONS...: the same bytes from 1, 2 and 4 ranks; the log is that of one rank.
same() {
    local name=$1 n
    shift
    prepare "$@" -o "$name.h5" >log 2>&1 || fail "$name: exit $?: $(cat log)"
    for n in 2 4; do
        ranks $n "$OHTRAIN" prepare images "$@" -o "$name-$n.h5" -q >/dev/null 2>&1 || fail "$name: $n ranks: exit $?"
        cmp "$name.h5" "$name-$n.h5" || fail "$name: $n ranks give other bytes"
    done
}
logged() { local what; for what in "$@"; do grep -qF -- "$what" log || fail "no \"$what\" in: $(head -c 3000 log)"; done; }

python3 "$OHT_SOURCE/datasets/make-images.py" shapes --size 20 --train 5 --validation 2 || fail "no pictures"
same plain --train shapes/train --validation shapes/validation --strict

# Links: in circles, to the folder itself, to a sound file, to a class folder.
cp -r shapes links
ln -s b links/train/disc/a.png && ln -s a.png links/train/disc/b
ln -s . links/train/disc/itself
ln -s ../moon/000.png links/train/disc/linked.png
ln -s .. links/train/up
mv links/train/cross elsewhere && ln -s ../../elsewhere links/train/cross
same links --train links/train
logged 'disc/a.png: cannot be opened: Too many levels' 'disc/itself: a folder inside' 'up/train: a folder inside' 'links.h5: train: 51 images'

# Sizes: declared ones that no memory holds, in both formats; as much memory as a sound picture needs is enough.
mkdir -p bombs/train/disc
cp shapes/train/disc/000.png bombs/train/disc
python3 - "$OHT_SOURCE/tests/golden/images/pillow.hopper.jpg" bombs/train/disc <<'PY' || fail "no bombs"
import struct, sys, zlib
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(w, h, depth, kind, data): return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, kind, 0, 0, 0)) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
put = lambda name, b: open(sys.argv[2] + '/' + name, 'wb').write(b)
put('wide.png', png(65000, 65000, 16, 6, zlib.compress(bytes(100000))))
put('sides.png', png(2**31 - 1, 1, 8, 0, zlib.compress(bytes(1000))))
put('none.png', png(0, 5, 8, 0, zlib.compress(b'')))
put('short.png', png(9000, 9000, 8, 2, zlib.compress(bytes(3000))))
put('text.png', png(2, 1, 8, 0, zlib.compress(bytes(3)))[:-12] + chunk(b'zTXt', b'x\0\0' + zlib.compress(bytes(300 << 20), 9)) + chunk(b'IEND', b''))
jpeg = bytearray(open(sys.argv[1], 'rb').read())
at = next(i for i in range(2, len(jpeg)) if jpeg[i] == 0xff and jpeg[i + 1] in (0xc0, 0xc1, 0xc2))
for name, w, h in (('huge.jpg', 65500, 65500), ('tall.jpg', 20, 65500), ('zero.jpg', 20, 0)):
    jpeg[at + 5:at + 9] = struct.pack('>HH', h, w)
    put(name, bytes(jpeg))
PY
[ -n "${OHT_SANITIZE:-}" ] || ulimit -Sv 6000000
same bombs --train bombs/train
ulimit -Sv unlimited
logged 'wide.png: PNG of 65000 x 65000 pixels' 'sides.png: PNG' 'none.png: PNG' 'short.png: PNG of 9000 x 9000' 'huge.jpg: JPEG of 65500 x 65500' \
    'zero.jpg: JPEG' 'bombs.h5: train: '
prepare --train bombs/train -o out.h5 --strict >log 2>&1
[ $? = 3 ] || fail "bombs, strict: $(cat log)"
[ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "bombs, strict: not one error: $(cat log)"

# --resize: longer ones become smaller, others keep their bytes; no rank sees another picture.
mkdir -p mixed/train/disc
cp "$OHT_SOURCE"/tests/golden/images/pillow.hopper.jpg shapes/train/disc/000.png mixed/train/disc
same resized --train mixed/train --resize 24
python3 - <<'PY' || fail "resize"
import sys
try:
    import h5py
except ImportError:
    sys.exit(0)
f = h5py.File('resized.h5')
bytes_, at = f['train/bytes'][:].tobytes(), f['train/offsets'][:]
assert list(f['train/labels'][:]) == [0, 0] and len(at) == 3
assert bytes_[at[0]:at[1]] == open('shapes/train/disc/000.png', 'rb').read()
jpeg, big = bytes_[at[1]:at[2]], open('mixed/train/disc/pillow.hopper.jpg', 'rb').read()
assert jpeg[:2] == b'\xff\xd8' and len(jpeg) < len(big)
PY

# Classes: validation may lack some, and may not have others; names are compared as bytes.
cp -r shapes fewer
rm -r fewer/validation/cross fewer/validation/ring
same fewer --train fewer/train --validation fewer/validation
logged 'fewer.h5: validation: 16 images' '10 classes'
mv fewer/validation/disc fewer/validation/Disc
prepare --train fewer/train --validation fewer/validation -o out.h5 >log 2>&1
[ $? = 3 ] || fail "another class: $(cat log)"
logged 'class folder Disc is not in'
[ ! -e out.h5 ] || fail "another class: left a file"

# A folder that may not be read ends it, whole or not at all. Root may read everything, so somebody else tries.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
cp -r shapes closed
chmod -R a+rX "$work"
chmod 000 closed/train/moon
mkdir -m 777 open
if "${as[@]}" "$OHTRAIN" --version >/dev/null 2>&1; then
    HOME=$work "${as[@]}" "$OHTRAIN" prepare images --train closed/train -o open/out.h5 >log 2>&1
    [ $? = 6 ] || fail "closed folder: $(cat log)"
    logged 'cannot open the folder' 'moon'
    [ -z "$(ls open)" ] || fail "closed folder: left $(ls open)"
    chmod 755 closed/train/moon
    chmod 000 closed/train/moon/000.png
    HOME=$work "${as[@]}" "$OHTRAIN" prepare images --train closed/train -o open/out.h5 >log 2>&1 || fail "closed file: $(cat log)"
    logged 'moon/000.png: cannot be opened: Permission denied' '49 images'
fi

# Thousands of files that are no pictures: few lines, a bounded list, the one good picture.
mkdir -p many/train/disc
(cd many/train/disc && seq -f '%05g.png' 1 3000 | xargs touch)
cp shapes/train/disc/000.png many/train/disc/zzz.png
same many --train many/train
logged '3000 files were skipped' 'many.h5: train: 1 images'
[ "$(wc -l <log)" -lt 60 ] || fail "$(wc -l <log) lines for 3000 bad files"

# Files that vanish while it runs: each is an image of the file or is listed as skipped.
mkdir -p going/train/disc
for i in $(seq 1000 1299); do cp shapes/train/disc/001.png going/train/disc/$i.png; done
(for i in $(seq 1299 -1 1000); do rm going/train/disc/$i.png; done) &
prepare --train going/train -o going.h5 >log 2>&1
code=$?
wait
if [ $code = 0 ]; then
    images=$(sed -n 's/^going.h5: train: \([0-9]*\) images.*/\1/p' log) skipped=$(sed -n 's/.*warning: \([0-9]*\) files were skipped.*/\1/p' log)
    total=$(sed -n 's/^\([0-9]*\) files in .*/\1/p' log)
    [ "$((images + ${skipped:-0}))" = "$total" ] || fail "vanishing: $images images and ${skipped:-0} skipped of $total: $(cat log)"
    [ "${skipped:-0}" = 0 ] || logged 'cannot be opened: No such file'
else
    [ $code = 3 ] || fail "vanishing: exit $code: $(cat log)"
    logged 'not one image'
fi
exit $bad
