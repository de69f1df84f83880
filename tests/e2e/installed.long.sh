# What cmake --install leaves: the program, its module (Lmod) and job scripts that work from any folder, with the module loaded
# by a site file.
. "$OHT_SOURCE/tests/support/e2e.bash"
[ -r /etc/profile.d/lmod.sh ] || { echo "skipped: no Lmod (fix: env/install.sh debian-slurm)"; exit 77; }
succeed cmake --install "$(dirname "$OHTRAIN")" --prefix "$work/prefix dir"
prefix="$work/prefix dir"
cat >"$work/site.sh" <<SITE
set +u # Lmod's own scripts
source /etc/profile.d/lmod.sh
module use "$prefix/share/modulefiles" && module load ohtrain/0.1
set -u
SITE
cd "$work" || exit 1
program=$OHTRAIN
unset OHTRAIN
OHT_MPIRUN_FLAGS="${mpi[*]}" OHT_SITE=$work/site.sh "$prefix/share/ohtrain/jobs/local.sh" -n 1 "$prefix/share/ohtrain/jobs/opt.slurm" opt.yaml train.steps=3 \
    >log 2>&1 || { cat log >&2; fail "the installed job script"; }
grep -qF "$prefix/bin/ohtrain train" log || { cat log >&2; fail "another program ran"; }
ls runs/opt/checkpoints/step-*3.h5 >/dev/null || fail "no checkpoint"
# The recipes are found beside the scripts, and without a file of its own the installed site file serves.
OHTRAIN=$program OHT_MPIRUN_FLAGS="${mpi[*]}" "$prefix/share/ohtrain/jobs/local.sh" -n 1 -J mini "$prefix/share/ohtrain/jobs/opt.slurm" \
    "$prefix/share/ohtrain/jobs/opt-mini.yaml" data.path=clm.h5 train.steps=1 model.vocab_size=61 eval.max_batches=1 >log 2>&1 ||
    { cat log >&2; fail "a recipe beside the script"; }
# The module says what it is, and OHTRAIN_ROOT names another installation.
text=$(set +u; source /etc/profile.d/lmod.sh; module use "$prefix/share/modulefiles"; module help ohtrain/0.1 2>&1; OHTRAIN_ROOT=/elsewhere; export OHTRAIN_ROOT
    module load ohtrain; echo "path $PATH share $OHTRAIN_SHARE")
[[ $text = *"outlier-efficient attention"*"path /elsewhere/bin:"*"share /elsewhere/share/ohtrain"* ]] || fail "module: $text"
