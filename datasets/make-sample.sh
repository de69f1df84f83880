#!/usr/bin/env bash
# Makes datasets/sample/opt.h5 and bert.h5 (blocks of 128 tokens) from the bundled text, as the paper's corpora are
# prepared: books first, then the encyclopedia; validation on the encyclopedia alone. Takes a second or two.
#   datasets/make-sample.sh              OHTRAIN=path/to/ohtrain names the program
set -euo pipefail
sample=$(cd "$(dirname "$0")/sample" && pwd)
root=$(dirname "$(dirname "$sample")")
program=${OHTRAIN:-}
for candidate in "$root/build/release/ohtrain" "$root/build/ohtrain" "$(command -v ohtrain || true)"; do
    if [ -z "$program" ] && [ -x "$candidate" ]; then program=$candidate; fi
done
if [ -z "$program" ]; then
    echo "no ohtrain found: build it (cmake -S . -B build -G Ninja && cmake --build build), or set OHTRAIN" >&2
    exit 2
fi
for model in opt bert; do
    tokenizer=$sample/tokenizers/$model
    [ "$model" = bert ] && tokenizer=$sample/tokenizers/bert-base-uncased
    "$program" prepare text --train "$sample/book.jsonl" "$sample/wiki-train.jsonl" --validation "$sample/wiki-validation.jsonl" \
        --json-field text --tokenizer "$tokenizer" --block 128 --out "$sample/$model.h5"
done
