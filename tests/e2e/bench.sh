# bench needs no data file, works on any number of ranks, and writes the fields that scripts rely on.
. "$OHT_SOURCE/tests/support/e2e.bash"
for model in opt bert; do
    for np in 1 2; do
        succeed ranks $np "$OHTRAIN" bench --quiet -c "$work/$model.yaml" --steps 2 --json "$work/bench.json" data.path=/no/such/file
        for name in step_s tokens_per_s flops_per_step flops_per_s gemm_flops_per_s gemm_share peak_rss_bytes phases_s; do
            grep -q "\"$name\": [0-9{]" "$work/bench.json" || { cat "$work/bench.json"; fail "no $name"; }
        done
        grep -q "\"ranks\": $np," "$work/bench.json" || fail "not $np ranks"
        grep -q 'SGEMM' "$work/out" || fail "no table"
        flops=$(sed -n 's/.*"flops_per_step": \([0-9.]*\).*/\1/p' "$work/bench.json")
        [ $np -eq 1 ] && one=$flops
        [ "$one" = "$flops" ] || fail "$one FLOPs on one rank, $flops on $np"
    done
done
expect 2 steps "$OHTRAIN" bench -c "$work/opt.yaml" --steps 0
expect 6 'bench.json' "$OHTRAIN" bench --quiet -c "$work/opt.yaml" --steps 1 --json /no/such/folder/bench.json

# OpenBLAS takes kernels without AVX2 for processors that it does not know; the program chooses better ones, unless told.
if grep -q avx2 /proc/cpuinfo; then
    succeed env -u OPENBLAS_CORETYPE "$OHTRAIN" bench --quiet -c "$work/opt.yaml" --steps 1
    grep -qE 'OpenBLAS for (Haswell|Zen|SkylakeX|Cooperlake|SapphireRapids)$' "$work/out" || { cat "$work/out"; fail "slow kernels"; }
    loader=$(ldd "$OHTRAIN" | grep -o '/[^ ]*/ld-linux[^ ]*')
    [ -n "${OHT_SANITIZE:-}" ] || succeed env -u OPENBLAS_CORETYPE "$loader" "$OHTRAIN" bench --quiet -c "$work/opt.yaml" --steps 1
    succeed env OPENBLAS_CORETYPE=Nehalem "$OHTRAIN" bench --quiet -c "$work/opt.yaml" --steps 1
    grep -q 'OpenBLAS for Nehalem$' "$work/out" || { cat "$work/out"; fail "OPENBLAS_CORETYPE is ignored"; }
fi
