# The command line as a user meets it: help, version, wrong words and options, exit codes, and the texts in jobs/ that are
# made from the program or must agree with it.
set -u
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
failed=0

fail() {
    echo "FAILED: $*"
    sed 's/^/    /' out err 2>/dev/null | head -40
    failed=1
}
# expect CODE ARGUMENTS...: runs the program, keeps out and err
expect() {
    local want=$1
    shift
    $OHTRAIN "$@" >out 2>err </dev/null
    local got=$?
    [ "$got" = "$want" ] || fail "ohtrain $*: exit code $got, expected $want"
    last="ohtrain $*"
}
# says WHERE TEXT...: each text is in out or err
says() {
    local where=$1 text
    shift
    for text in "$@"; do
        grep -qF -- "$text" "$where" || fail "$last: \"$text\" is not in $where"
    done
}
silent() {
    [ ! -s "$1" ] || fail "$last: $1 is not empty"
}

commands="train eval prepare report check bench"

expect 0 --version; says out "ohtrain 0."; silent err
[ "$(wc -l <out)" = 1 ] || fail "--version: more than one line"
expect 0 --help; silent err
for command in $commands; do says out "ohtrain $command "; done
says out "Exit codes" "mpirun -np 2"
cp out help
expect 0 -h; cmp -s out help || fail "-h and --help differ"

# Each command's help: its usage, and every option that its usage names.
for command in $commands; do
    expect 0 $command --help; silent err
    says out "ohtrain $command"
    options=$(head -1 out | grep -oE -- '(^|[[ ])--?[a-z-]+' | tr -d '[ ' | sort -u)
    tail -n +2 out >body
    for option in $options; do
        grep -qF -- "$option" body || fail "$command --help: $option is in the usage but not explained"
    done
    if head -1 out | grep -q "key=value"; then says out "model.attention" "run.keep_checkpoints" "may differ when a run is resumed"; fi
done

# Usage errors: code 2, one message on stderr with a remedy, nothing on stdout, no crash.
wrong() {
    local text=$1
    shift
    expect 2 "$@"
    says err "ohtrain: CONFIG error" "$text"
    silent out
    [ "$(grep -c '^ohtrain: ' err)" = 1 ] || fail "$last: not exactly one message"
}
wrong 'unknown command "trian"; nearest: train' trian
wrong 'unknown command "zzz"' zzz
wrong 'unknown command "zzz"' zzz --help
wrong 'unknown option --confg; nearest: --config' train --confg x
wrong 'unknown option -z' -z
wrong 'model.attentoin: unknown key; nearest: model.attention' model.attentoin=softmax1
wrong 'model.layers: found "many"' train model.layers=many
wrong 'model.heads' check model.heads=3 data.tokens=128
wrong 'unexpected word "extra"' train extra
wrong 'expected a value' train -c
wrong 'which runs?' report
wrong 'allowed: text, md, csv, json' report --format jsn x
wrong 'which run?' eval
printf 'model:\n  attentoin: softmax1\n' >bad.yaml
wrong 'bad.yaml:2: model.attentoin: unknown key; nearest: model.attention' train -c bad.yaml
wrong 'bad.yaml:2: model.attentoin' -c bad.yaml
wrong 'bad.yaml:2: model.attentoin' check -c bad.yaml
expect 6 train -c missing.yaml; says err "missing.yaml"
mkfifo pipe.yaml # nobody writes into it: it must not be waited for
for command in train check bench; do expect 6 $command -c pipe.yaml; says err "pipe.yaml" "a pipe or a device"; done
expect 6 check -c .; says err "a folder"
expect 6 check -c /dev/zero; says err "a pipe or a device"
mkfifo pipe.h5
expect 3 check data.path=pipe.h5; says err "pipe.h5" "not a regular file"

# No data yet: the message says the one command that makes it.
expect 6; says err "datasets/sample/opt.h5" "fix: " "datasets/make-sample.sh"
expect 6 check; says err "datasets/make-sample.sh" "data.tokens="

# Under mpirun: said once.
if command -v mpirun >/dev/null; then
    mpirun --oversubscribe --bind-to none -np 2 $OHTRAIN trian >out 2>err </dev/null
    got=$?
    last="mpirun ohtrain trian"
    [ "$got" = 2 ] || fail "$last: exit code $got"
    [ "$(grep -c 'unknown command' err)" = 1 ] || fail "$last: not exactly one message"
    mpirun --oversubscribe --bind-to none -np 2 $OHTRAIN --version >out 2>err </dev/null
    last="mpirun ohtrain --version"
    [ "$(wc -l <out)" = 1 ] || fail "$last: not exactly one line"
fi

# check: works without data, prints configuration, parameters, memory and FLOPs.
expect 0 check data.tokens=64 model.attention=clipped model.alpha=12
says out "attention: \"clipped\"" "gamma -0.1875" "parameters: 16," "memory of one rank" "AdamW moments" "FLOPs: " "1,024 tokens"
expect 0 check -c "$OHT_SOURCE/jobs/opt-125m.yaml" data.tokens=512; says out "parameters: 124,059,648"
expect 0 check -c "$OHT_SOURCE/jobs/bert-base.yaml" data.tokens=128; says out "parameters: 109,514,298"
sed '/^model: /,$d' out >resolved.yaml # what it prints first is a configuration
expect 0 check -c resolved.yaml data.tokens=128; says out "parameters: 109,514,298"
expect 0 check -c "$OHT_SOURCE/jobs/vit-s16.yaml"; says out "parameters: 22,037,224"
expect 0 check -c "$OHT_SOURCE/jobs/vit-s16.yaml" model.patch_bias=true model.qkv_bias=true model.pre_norm=false; says out "parameters: 22,050,664"
expect 0 check -c "$OHT_SOURCE/jobs/stanhop-etth1-24.yaml"; says out "parameters: 35,150,664"
for job in "$OHT_SOURCE"/jobs/*.yaml; do
    length=data.tokens=128
    [[ $job == */vit-* ]] && length=model.patch=16 # its length follows from the image
    [[ $job == */stanhop-* ]] && length=model.type=stanhop # its length is model.input
    expect 0 check -c "$job" "$length"
done

# A model that no machine holds: check says how large it is, train and bench refuse it before they plan it.
huge="model.layers=1000 model.width=65536 model.heads=64 model.ffn=262144"
expect 0 check $huge data.tokens=128; says out "note: more than this node's memory"
"$(dirname "$OHTRAIN")/tests/make_text" clm.h5 clm 8 128 >/dev/null
expect 7 train $huge data.path=clm.h5; says err "node " "GiB are needed"
expect 7 bench $huge data.tokens=128; says err "GiB are needed" "fix: fewer ranks a node, or a smaller model"
expect 7 bench data.tokens=128 train.micro_batch=1000000 train.global_batch=1000000; says err "train.recompute=true"

OMP_NUM_THREADS=999999 expect 2 check data.tokens=128; says err "OMP_NUM_THREADS asks for 999999 threads" "fix: OMP_NUM_THREADS="

# The reference in jobs/README.md is the program's.
expect 0 --reference
sed -n '/made by: ohtrain --reference/,/end of ohtrain --reference/p' "$OHT_SOURCE/jobs/README.md" | sed '1d;$d' >reference
diff -u reference out >difference || { fail "jobs/README.md is not what ohtrain --reference says"; head -20 difference; }
exit $failed
