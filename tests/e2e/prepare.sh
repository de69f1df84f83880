# ohtrain prepare text as users run it: the sample data, the same bytes on any number of ranks, exit codes and messages,
# one rank failing, and nothing left behind.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
sample=$OHT_SOURCE/datasets/sample
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
ranks() { local n=$1; shift; timeout 120 mpirun -np "$n" --oversubscribe --bind-to none "$@"; }

# The same bytes from 1, 2, 3 ranks, other folders, other names of the folder; sha256 of the inputs inside.
mkdir here there
cp "$sample"/*.jsonl here; cp "$sample"/wiki-*.jsonl "$sample"/book.jsonl there
for model in opt bert-base-uncased; do
    prepare() {
        local from=$1 out=$2
        shift 2
        "$@" "$OHTRAIN" prepare text --train "$from/book.jsonl" "$from/wiki-train.jsonl" --validation "$from/wiki-validation.jsonl" \
            --json-field text --tokenizer "$sample/tokenizers/$model" --block 128 --rows-per-group 100 --out "$out" --quiet ||
            fail "$model: exit $?"
    }
    prepare here one.h5
    prepare there "$work/here/two.h5" ranks 2
    prepare ./here three.h5 ranks 3
    cmp one.h5 here/two.h5 || fail "$model: 2 ranks give other bytes"
    cmp one.h5 three.h5 || fail "$model: 3 ranks give other bytes"
    sum=$(cat here/book.jsonl here/wiki-train.jsonl here/wiki-validation.jsonl | sha256sum | cut -d' ' -f1)
    h5dump -a /source_sha256 one.h5 | grep -q "$sum" || fail "$model: source_sha256 is not $sum"
done

# expect CODE TEXT ARGUMENTS: exit code and message; one error, no file left.
expect() {
    local code=$1 text=$2 got
    shift 2
    rm -f out.h5
    timeout 60 "$OHTRAIN" prepare "$@" >log 2>&1
    got=$?
    [ $got = "$code" ] || fail "prepare $*: exit $got, expected $code: $(cat log)"
    grep -qF -- "$text" log || fail "prepare $*: no \"$text\" in: $(cat log)"
    [ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "prepare $*: not one error: $(cat log)"
    [ -z "$(ls out.h5* 2>/dev/null)" ] || fail "prepare $*: left $(ls out.h5*)"
}
printf 'one row\n\nand another row of words for a block of eight\n' >a.txt
printf '{"text": "x"}\n{"text": \n' >a.jsonl
opt=$sample/tokenizers/opt
good=(text --train a.txt --validation a.txt --tokenizer "$opt" --block 8 -o out.h5)
expect 2 'expected: ohtrain prepare text'
expect 2 'unknown kind of data "pictures"' pictures
expect 2 'unknown option --blok; nearest: --block' text --blok 8
expect 2 'unexpected word "more"' text more
expect 2 '--train: expected one or more files' text --train --block 8
expect 2 'no input' text --tokenizer "$opt" --block 8 -o out.h5
expect 2 '--tokenizer FOLDER is missing' text --train a.txt --block 8 -o out.h5
expect 2 '--block T is missing' text --train a.txt --tokenizer "$opt" -o out.h5
expect 2 '-o FILE.h5 is missing' text --train a.txt --tokenizer "$opt" --block 8
expect 2 '--block is "8x"' text --train a.txt --tokenizer "$opt" --block 8x -o out.h5
expect 2 '--block is 7' text --train a.txt --tokenizer "$opt" --block 7 -o out.h5
expect 2 '--block is given twice' "${good[@]}" --block 8
expect 2 '--train is given twice' "${good[@]}" --train a.txt
expect 2 '--kind is "word"' "${good[@]}" --kind word
expect 2 '--rows-per-group is "0"' "${good[@]}" --rows-per-group 0
expect 2 'this is an input' text --train a.txt --tokenizer "$opt" --block 8 -o ./a.txt
expect 3 'no vocabulary in this folder' text --train a.txt --tokenizer "$work" --block 8 -o out.h5
expect 3 'vocab.txt: cannot open' "${good[@]}" --kind wordpiece
expect 3 'a.jsonl:2: column' text --train a.jsonl --tokenizer "$opt" --block 8 --json-field text -o out.h5
expect 3 'a.jsonl:1: no field "body" in it; it has text' text --train a.jsonl --tokenizer "$opt" --block 8 --json-field body -o out.h5
expect 6 'none.txt: cannot open' text --train none.txt --tokenizer "$opt" --block 8 -o out.h5
expect 6 'none/out.h5' text --train a.txt --tokenizer "$opt" --block 8 -o none/out.h5

# Halves of a surrogate pair are U+FFFD, as ill-formed UTF-8 is; whole pairs and escaped backslashes stay.
one='and some more words so that it makes a block of eight'
printf '%s\n' '{"text": "a \ud800 b \udc00\ud83d c \ud83d\ude00 \\\\ud800 \uDBFFx '"$one"'"}' >half.jsonl
printf '%s\n' '{"text": "a \ufffd b \ufffd\ufffd c \ud83d\ude00 \\\\ud800 \ufffdx '"$one"'"}' >whole.jsonl
printf '{"text": "a \xff \\ud800 %s"}\n' "$one" >both.jsonl # one of each
printf '{"text": "a \xef\xbf\xbd \\ufffd %s"}\n' "$one" >both-whole.jsonl
for name in half whole both both-whole; do
    "$OHTRAIN" prepare text --train $name.jsonl --json-field text --tokenizer "$opt" --block 8 --keep-remainder -o $name.h5 >log 2>&1 ||
        fail "$name.jsonl: $(cat log)"
done
h5diff half.h5 whole.h5 /train/tokens || fail "half a surrogate pair is not U+FFFD"
h5diff both.h5 both-whole.h5 /train/tokens || fail "half a surrogate pair beside ill-formed UTF-8"

# A full disk, where the kernel lets us have a small one.
if mkdir small && mount -t tmpfs -o size=256k tmpfs small 2>/dev/null; then
    timeout 60 "$OHTRAIN" prepare text --train "$sample/book.jsonl" --tokenizer "$opt" --block 128 -o small/out.h5 >log 2>&1
    [ $? = 6 ] || fail "full disk: $(cat log)"
    [ -z "$(ls small)" ] || fail "full disk: left $(ls small)"
    umount small
fi

# A bad line in the second group, which rank 1 of 2 reads: one message, exit 3, no hang.
{ seq -f '{"text": "row %g"}' 10; echo 'not json'; seq -f '{"text": "row %g"}' 10; } >b.jsonl
ranks 2 "$OHTRAIN" prepare text --train b.jsonl --tokenizer "$opt" --block 8 --json-field text --rows-per-group 10 -o out.h5 >log 2>&1
[ $? = 3 ] || fail "rank 1 fails: $(cat log)"
grep -q 'on rank 1 of 2.*b.jsonl:11: ' log || fail "rank 1's message: $(cat log)"
[ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "not one error: $(cat log)"

# A pipe is an input where one rank reads.
cat a.txt | "$OHTRAIN" "prepare" text --train /dev/stdin --tokenizer "$opt" --block 8 -o out.h5 >log 2>&1 || fail "pipe: $(cat log)"
"$OHTRAIN" "prepare" "${good[@]}" >log 2>&1 || fail "good: $(cat log)"
grep -q 'train: 1 blocks of 8 tokens from 3 rows of text; 8 tokens kept, 7 dropped' log || fail "summary: $(cat log)"
"$OHTRAIN" prepare --help | grep -q -- '--rows-per-group N' || fail "help"
exit $bad
