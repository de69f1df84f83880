#!/usr/bin/env bash
# Makes the data files of the sample, all or those named:
#   text    datasets/sample/opt.h5 and bert.h5 (blocks of 128 tokens) from the bundled text, as the paper's corpora are
#           prepared: books first, then the encyclopedia; validation on the encyclopedia alone
#   images  datasets/sample/images.h5: 2,000 + 500 pictures of 32 x 32, drawn by make-images.py
# Takes a few seconds.
#   datasets/make-sample.sh [text] [images]      OHTRAIN=path/to/ohtrain names the program
set -euo pipefail
sample=$(cd "$(dirname "$0")/sample" && pwd)
root=$(dirname "$(dirname "$sample")")
[ $# -gt 0 ] || set -- text images
for what in "$@"; do
    case $what in text | images) ;; *) echo "usage: datasets/make-sample.sh [text] [images]" >&2; exit 2 ;; esac
done
program=${OHTRAIN:-}
for candidate in "$root/build/release/ohtrain" "$root/build/ohtrain" "$(command -v ohtrain || true)"; do
    if [ -z "$program" ] && [ -x "$candidate" ]; then program=$candidate; fi
done
if [ -z "$program" ]; then
    echo "no ohtrain found: build it (cmake -S . -B build -G Ninja && cmake --build build), or set OHTRAIN" >&2
    exit 2
fi

text() {
    for model in opt bert; do
        tokenizer=$sample/tokenizers/$model
        [ "$model" = bert ] && tokenizer=$sample/tokenizers/bert-base-uncased
        "$program" prepare text --train "$sample/book.jsonl" "$sample/wiki-train.jsonl" --validation "$sample/wiki-validation.jsonl" \
            --json-field text --tokenizer "$tokenizer" --block 128 --out "$sample/$model.h5"
    done
}

images() {
    drawn=$(mktemp -d)
    trap 'rm -rf "$drawn"' EXIT
    python3 "$root/datasets/make-images.py" "$drawn"
    "$program" prepare images --train "$drawn/train" --validation "$drawn/validation" --strict --out "$sample/images.h5"
}

for what in "$@"; do "$what"; done
