# What a job needs on this site: sourced by every job script before anything runs. As shipped it changes nothing; edit it, or leave
# it alone and name your own with OHT_SITE. Settings are explained in jobs/common.sh.

# Modules, when the system's own compiler and MPI are not to be used:
#   module purge
#   module load gcc openmpi hdf5 openblas
#   module use "$HOME/ohtrain/share/modulefiles" && module load ohtrain/0.1

# The program, when no module provides it:
#   OHTRAIN=$HOME/ohtrain/bin/ohtrain

# Start ranks with srun instead of mpirun, and through which interface (`srun --mpi=list`):
#   OHT_LAUNCHER=srun OHT_SRUN_MPI=pmix

# Open MPI on a network with several interfaces: use this one. Foreign MCA settings change the order of sums, so keep one set
# for all runs that are to be compared bit by bit.
#   export OMPI_MCA_btl_tcp_if_include=ib0

# Partition, account and GPUs belong on the command line (sbatch --gpus-per-node=2 ...) or into SBATCH_PARTITION, SBATCH_ACCOUNT,
# SBATCH_GPUS_PER_NODE of the shell that submits: this file is read after Slurm has decided.
