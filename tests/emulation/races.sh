# Does the thread sanitizer find a barrier that is missing? Kernels of the emulated GPU run with one __syncthreads left out.
# usage: races.sh FOLDER-OF-TEST-PROGRAMS
set -u
bad=0
# left_out PROGRAM KERNEL:n ...
left_out() {
    local program=$1 barrier
    shift
    case $program in test_kernels_*) export OHT_KERNELS_EMULATED=1 ;; *) unset OHT_KERNELS_EMULATED ;; esac
    for barrier; do
        OHT_EMU_SKIP_BARRIER=$barrier TSAN_OPTIONS=halt_on_error=1 "$folder/$program" >"$log" 2>&1
        [ $? -eq 66 ] && grep -q 'data race' "$log" || { echo "FAILED: nobody misses $barrier"; bad=1; }
    done
}
folder=$1
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
left_out test_kernels_golden attention_fwd:0 attention_fwd:2 attention_key:0 attention_query:0 attention_query:2 layernorm:0 gate:1 \
    gate:2 moments:0 moments:1
left_out test_kernels_hopfield hopfield_fwd:0 hopfield_fwd:1 hopfield_fwd:2 hopfield_bwd:0 hopfield_bwd:1 hopfield_bwd:2 hopfield_bwd:4
left_out test_cuda_attention attention_fwd:1 attention_key:1 attention_query:1 wide_key:0 # several tiles of keys
exit $bad
