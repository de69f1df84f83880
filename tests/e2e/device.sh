# run.device: what it says without a GPU; and the same training on the emulated one as on the CPU, on one rank and on two,
# with a checkpoint that moves between them.
. "$OHT_SOURCE/tests/support/e2e.bash"
train="$OHTRAIN train -c $work/opt.yaml train.steps=20 eval.batch=4"
export OHT_CUDA_PLUGIN=$work/none.so
expect 5 'no CUDA backend: .*none.so' ranks 2 $train -o "$work/refused" run.device=cuda
expect 0 'on the CPU: no CUDA backend: .*none.so' ranks 2 $train -o "$work/cpu-2" run.device=auto
[ -n "${OHT_EMULATED:-}" ] || { echo "no emulated CUDA backend here"; exit 77; }
export OHT_CUDA_PLUGIN=$OHT_EMULATED
OHT_EMU_DEVICES=0 expect 5 'no CUDA device: .*driver' $train -o "$work/refused" run.device=cuda
OHT_EMU_DEVICES=0 expect 0 'on the CPU: no CUDA device: .*driver' $train -o "$work/cpu-1" run.device=auto
# 40 MiB are the backend's own.
OHT_EMU_MEMORY=42000000 expect 7 'GPU 0: .* MiB for ' $train -o "$work/refused" run.device=cuda
OHT_EMU_FAIL=adamw expect 5 'GPU 0: adamw' $train -o "$work/broken" run.device=cuda
for np in 1 2; do
    OHT_EMU_COUNT=$work/count-$np succeed ranks $np $train --quiet -o "$work/gpu-$np" run.device=cuda train.precision=fp32
    # Most kernels are replayed, on every rank.
    [ "$(awk '$6 > $1' "$work/count-$np" | wc -l)" -eq $np ] || fail "few graphs: $(cat "$work/count-$np")"
    close_losses 1e-4 "$work/cpu-$np" "$work/gpu-$np"
done
succeed $train --quiet -o "$work/moved" run.device=cuda train.precision=fp32 train.steps=10
succeed $train --quiet -o "$work/moved" run.device=cpu run.resume=must
close_losses 1e-4 "$work/cpu-1" "$work/moved"
