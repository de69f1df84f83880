-- Lmod: module use PREFIX/share/modulefiles && module load ohtrain/0.1. The prefix is found from where this file lies; OHTRAIN_ROOT
-- names another.
help([[ohtrain: trains transformers with outlier-efficient attention under MPI and reports their outliers.
Job scripts and recipes: $OHTRAIN_SHARE/jobs (submit with OHT_JOBS=$OHTRAIN_SHARE/jobs).]])
whatis("Name: ohtrain")
whatis("Version: 0.1")
local here = myFileName():match("^(.*)/share/modulefiles/") or pathJoin(os.getenv("HOME") or "", "ohtrain")
local root = os.getenv("OHTRAIN_ROOT") or here
prepend_path("PATH", pathJoin(root, "bin"))
setenv("OHTRAIN_SHARE", pathJoin(root, "share/ohtrain"))
