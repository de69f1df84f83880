// Ranks: a thin layer over MPI (3.1 calls only). One world communicator; errors come back as COMM and main aborts the job.
// Without mpirun it is a world of one.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

typedef struct oht_comm oht_comm;

OHT_CHECKED oht_status oht_comm_init(int *argc, char ***argv, oht_comm **out); // Collective. MPI_Init inside.
void oht_comm_finalize(oht_comm *comm);                                       // Collective.
void oht_comm_abort(oht_comm *comm, int code) __attribute__((noreturn));     // Local: ends every rank.
int oht_comm_rank(const oht_comm *comm);
int oht_comm_size(const oht_comm *comm);
int oht_comm_local_rank(const oht_comm *comm); // among the ranks of this node
int oht_comm_local_size(const oht_comm *comm); // number of ranks on this node
const char *oht_comm_node(const oht_comm *comm);

// Collective. Rank 0 logs one line a node (ranks, cores, threads, which rank on which device) and warns where threads outnumber
// the cores they may use. `device` names this rank's own.
OHT_CHECKED oht_status oht_comm_describe(oht_comm *comm, const char *device);

// Collective. Every rank gets status and message of the first rank that failed, and all return the same. Any error is worse
// than OHT_STOPPED, which is worse than OHT_OK. Call it after each phase that can fail on one rank alone.
OHT_CHECKED oht_status oht_agree(oht_comm *comm, oht_status status);
// The rank whose error the last oht_agree passed on, -1 when it found none; and the node of that rank.
int oht_agree_rank(const oht_comm *comm);
const char *oht_agree_node(const oht_comm *comm);

// Collective, in place, same count on all ranks.
OHT_CHECKED oht_status oht_sum_f32(oht_comm *comm, float *x, size_t n, size_t piece_bytes); // blocking pieces (hpc.md 1.3)
// x: (size, n). Row r of rank r becomes the sum of the ranks' rows r; the other rows are lost.
OHT_CHECKED oht_status oht_reduce_scatter_f32(oht_comm *comm, float *x, size_t n);
// x: (size, n). Row r of rank r goes to all.
OHT_CHECKED oht_status oht_all_gather_f32(oht_comm *comm, float *x, size_t n);
OHT_CHECKED oht_status oht_sum_f64(oht_comm *comm, double *x, size_t n);
OHT_CHECKED oht_status oht_max_f64(oht_comm *comm, double *x, size_t n);
OHT_CHECKED oht_status oht_broadcast(oht_comm *comm, void *bytes, size_t n, int root);
OHT_CHECKED oht_status oht_barrier(oht_comm *comm);
// Rank r's n bytes land at out + r * n on the root; out may be NULL elsewhere.
OHT_CHECKED oht_status oht_gather_bytes(oht_comm *comm, const void *bytes, size_t n, void *out, int root);
// Blocking point-to-point, for work that is handed out in pieces (prepare).
OHT_CHECKED oht_status oht_send(oht_comm *comm, const void *bytes, size_t n, int to);
OHT_CHECKED oht_status oht_receive(oht_comm *comm, void *bytes, size_t n, int from);
