# A run in two parts equals a run in one: bit by bit with the same ranks, sample for sample with others.
. "$OHT_SOURCE/tests/support/e2e.bash"
train="$OHTRAIN train --quiet"

for model in opt bert; do
    for np in 1 2; do
        succeed ranks $np $train -c "$work/$model.yaml" -o "$work/$model-whole-$np"
        succeed ranks $np $train -c "$work/$model.yaml" -o "$work/$model-parts-$np" train.steps=13
        succeed ranks $np $train -c "$work/$model.yaml" -o "$work/$model-parts-$np" run.resume=must
        same_state "$work/$model-whole-$np" "$work/$model-parts-$np"
        cmp <(losses "$work/$model-whole-$np") <(losses "$work/$model-parts-$np") || fail "logs differ"
        h5diff "$work/$model-whole-$np/outliers.h5" "$work/$model-parts-$np/outliers.h5" /activations ||
            fail "outlier reports differ"
    done
    # One rank begins, two go on with another micro-batch.
    succeed ranks 1 $train -c "$work/$model.yaml" -o "$work/$model-mixed" train.steps=13
    succeed ranks 2 $train -c "$work/$model.yaml" -o "$work/$model-mixed" train.micro_batch=3
    close_losses 1e-4 "$work/$model-whole-1" "$work/$model-mixed"
done

# Finished: says so, changes nothing.
before=$(cat "$work/opt-whole-1/metrics.jsonl" | md5sum)
expect 0 finished ranks 1 "$OHTRAIN" train -c "$work/opt.yaml" -o "$work/opt-whole-1"
[ "$before" = "$(cat "$work/opt-whole-1/metrics.jsonl" | md5sum)" ] || fail "a finished run was changed"
expect 2 run.resume ranks 2 $train -c "$work/opt.yaml" -o "$work/opt-whole-1" run.resume=never
expect 2 train.lr ranks 2 $train -c "$work/opt.yaml" -o "$work/opt-whole-1" train.lr=0.1
expect 2 run.resume ranks 2 $train -c "$work/opt.yaml" -o "$work/none" run.resume=must

# The data file may move, but it must hold the same data.
cp -r "$work/opt-whole-1" "$work/moved"
sed -i 's/"train_rows": /&1/' "$work/moved/data.json"
expect 3 'was trained on other data' ranks 2 $train -c "$work/opt.yaml" -o "$work/moved"
rm "$work/moved/data.json"
succeed ranks 2 $train -c "$work/opt.yaml" -o "$work/moved"
cmp "$work/moved/data.json" "$work/opt-whole-1/data.json" || fail "data.json differs"

# A damaged newest checkpoint: a warning, and the one before it is used.
cp -r "$work/opt-whole-2" "$work/damaged"
rm "$work/damaged/metrics.jsonl"
truncate -s 40000 "$(newest "$work/damaged")"
expect 0 'warning' ranks 2 "$OHTRAIN" train -c "$work/opt.yaml" -o "$work/damaged"
same_state "$work/opt-whole-2" "$work/damaged"
