# 1, 2 and 4 ranks see the same samples and masks: 20 losses equal to 1e-5, evaluations too. The same ranks again: the
# same bits.
. "$OHT_SOURCE/tests/support/e2e.bash"
number() { sed -n "s/^ *\"$2\": \([0-9.e+-]*\),*$/\1/p" "$1"; }
for model in opt bert; do
    for run in 1 2 2b 4 4b; do
        succeed ranks ${run%b} "$OHTRAIN" train --quiet -c "$work/$model.yaml" -o "$work/$model-$run" train.steps=20
    done
    same_state "$work/$model-2" "$work/$model-2b"
    same_state "$work/$model-4" "$work/$model-4b"
    for np in 2 4; do close_losses 1e-5 "$work/$model-1" "$work/$model-$np"; done
    # Seven sequences in the last batch of a data set of 19: some of four ranks have none of it.
    for np in 1 2 4; do
        succeed ranks $np "$OHTRAIN" eval --quiet -r "$work/$model-1" -o "$work/$model-$np.json" eval.batch=9 data.path="$work/$(
            [ $model = opt ] && echo clm || echo mlm).h5"
    done
    for name in loss perplexity max_inf_norm max_ffn_inf_norm max_layer_inf_norm avg_kurtosis max_kurtosis; do
        one=$(number "$work/$model-1.json" $name)
        [ -n "$one" ] || fail "no $name in the JSON of eval"
        for np in 2 4; do
            awk -v a="$one" -v b="$(number "$work/$model-$np.json" $name)" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d <= 1e-5 * a) }' ||
                fail "$model: $name is $one on one rank and $(number "$work/$model-$np.json" $name) on $np"
        done
    done
done
