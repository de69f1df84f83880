# ohtrain prepare images as users run it: the drawn pictures, the same bytes on any number of ranks, odd files, exit codes
# and messages, nothing left behind.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
ranks() { local n=$1; shift; timeout 120 mpirun -np "$n" --oversubscribe --bind-to none "$@"; }
prepare() { timeout 120 "$OHTRAIN" prepare images "$@"; }

python3 "$OHT_SOURCE/datasets/make-images.py" shapes --size 24 --train 7 --validation 3 || fail "no pictures"
both=(--train shapes/train --validation shapes/validation)
prepare "${both[@]}" -o one.h5 --strict >log 2>&1 || fail "exit $?: $(cat log)"
grep -q 'train: 70 images' log || fail "no count in: $(cat log)"
for n in 2 3; do
    ranks $n "$OHTRAIN" prepare images "${both[@]}" -o "ranks$n.h5" -q || fail "$n ranks: exit $?"
    cmp one.h5 "ranks$n.h5" || fail "$n ranks give other bytes"
done
cp -r shapes elsewhere
(cd elsewhere && prepare --train "$PWD/train" --validation ./validation/ -o ../moved.h5 -q) || fail "moved"
cmp one.h5 moved.h5 || fail "another place gives other bytes"
h5dump -d /classes one.h5 | grep -q '"checkers", "cross", "disc"' || fail "classes: $(h5dump -d /classes one.h5)"

# Odd files among them are listed and skipped; the same with any ranks.
mkdir -p odd/train/disc/inside
cp shapes/train/disc/* odd/train/disc
cp "$OHT_SOURCE"/tests/golden/images/* odd/train/disc
: >odd/train/disc/empty.png
echo stray >odd/train/README
ln -s nowhere odd/train/disc/broken-link.png
mkfifo odd/train/disc/pipe.png
prepare --train odd/train -o odd.h5 >log 2>&1 || fail "odd: exit $?: $(cat log)"
for what in 'disc/empty.png: an empty file' 'README.md: neither JPEG nor PNG' 'disc/pillow.broken.png: PNG' 'train/README: not in a class folder' \
    'broken-link.png: cannot be opened' 'pipe.png: no ordinary file' 'inside: a folder inside'; do
    grep -qF "$what" log || fail "odd: no \"$what\" in: $(cat log)"
done
h5dump -d /skipped odd.h5 | grep -q 'empty.png: an empty file' || fail "odd: /skipped"
ranks 3 "$OHTRAIN" prepare images --train odd/train -o odd3.h5 -q >log 2>&1 || fail "odd, 3 ranks: $(cat log)"
cmp odd.h5 odd3.h5 || fail "odd: 3 ranks give other bytes"

# Smaller pictures.
prepare --train odd/train -o small.h5 --resize 16 -q >log 2>&1 || fail "resize: $(cat log)"
ranks 2 "$OHTRAIN" prepare images --train odd/train -o small2.h5 --resize 16 -q >log 2>&1
cmp small.h5 small2.h5 || fail "resize: 2 ranks give other bytes"
[ "$(stat -c %s small.h5)" -lt "$(stat -c %s odd.h5)" ] || fail "resize: not smaller"

# expect CODE TEXT ARGUMENTS: exit code and message; one error, no file left.
expect() {
    local code=$1 text=$2 got
    shift 2
    rm -f out.h5
    prepare "$@" >log 2>&1
    got=$?
    [ $got = "$code" ] || fail "prepare images $*: exit $got, expected $code: $(cat log)"
    grep -qF -- "$text" log || fail "prepare images $*: no \"$text\" in: $(cat log)"
    [ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "prepare images $*: not one error: $(cat log)"
    [ -z "$(ls out.h5* 2>/dev/null)" ] || fail "prepare images $*: left $(ls out.h5*)"
}
mkdir -p none/empty files
cp shapes/train/disc/000.png files
expect 3 'not in a class folder' --train odd/train -o out.h5 --strict
rm odd/train/README
expect 3 'a folder inside a class folder' --train odd/train -o out.h5 --strict
rmdir odd/train/disc/inside
expect 3 'README.md: neither JPEG nor PNG' --train odd/train -o out.h5 --strict
expect 3 'no folders in it' --train files -o out.h5
expect 3 'not one image' --train none -o out.h5
expect 3 'class folder disc is not in' --train none --validation odd/train -o out.h5
expect 6 'cannot open the folder' --train nowhere -o out.h5
expect 2 'no input' -o out.h5
expect 2 '-o FILE.h5 is missing' --train shapes/train
expect 2 'nearest: --strict' --train shapes/train -o out.h5 --stric
expect 2 'unexpected word' --train shapes/train -o out.h5 more
expect 2 '--resize is "0"' --train shapes/train -o out.h5 --resize 0
expect 2 'is given twice' --train shapes/train --train shapes/train -o out.h5
expect 2 'is a folder' --train shapes/train -o files
ranks 3 "$OHTRAIN" prepare images --train odd/train -o out.h5 --strict >log 2>&1
[ $? = 3 ] || fail "strict, 3 ranks: $(cat log)"
[ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "strict, 3 ranks, not one error: $(cat log)"
[ -z "$(ls out.h5* 2>/dev/null)" ] || fail "strict, 3 ranks: left $(ls out.h5*)"
exit $bad
