// Ranks over MPI (include/oht/dist.h). Only MPI 3.1 calls, so that any MPI serves; the local rank comes from
// MPI_Comm_split_type and not from a launcher's variables. Errors are returned (MPI_ERRORS_RETURN) and turned
// into COMM with the call quoted. Counts are int in MPI 3.1: everything long goes in pieces.
#include "oht/dist.h"

#include <limits.h>
#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/log.h"
#include "oht/memory.h"

enum { NODE_NAME = 64, PIECE_BYTES = 1 << 30 };

struct oht_comm {
    MPI_Comm world, local; // all ranks; the ranks of this node
    int rank, size, local_rank, local_size;
    int agree_rank; // -1: the last oht_agree found nothing wrong
    char agree_node[NODE_NAME]; // its node
    char node[NODE_NAME];
};

static oht_status mpi_failed(int code, const char *call, const char *file, int line) {
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) snprintf(text, sizeof(text), "error %d", code);
    return oht_error_set(OHT_COMM, file, line, "%.300s: %.400s", call, text);
}

#define MPI_TRY(call)                                                                                        \
    do {                                                                                                     \
        int mpi_code_ = (call);                                                                              \
        if (mpi_code_ != MPI_SUCCESS) return mpi_failed(mpi_code_, #call, __FILE__, __LINE__);               \
    } while (0)

// ---- start and end ----

static oht_status set_up(oht_comm *comm, int provided) {
    if (provided < MPI_THREAD_SERIALIZED)
        OHT_FAIL(OHT_COMM,
                 "this MPI offers thread level %d, MPI_THREAD_SERIALIZED (%d) is needed\n"
                 "fix: use an MPI that was built with thread support",
                 provided, MPI_THREAD_SERIALIZED);
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &comm->world));
    MPI_TRY(MPI_Comm_set_errhandler(comm->world, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(comm->world, &comm->rank));
    MPI_TRY(MPI_Comm_size(comm->world, &comm->size));
    MPI_TRY(MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &comm->local));
    MPI_TRY(MPI_Comm_set_errhandler(comm->local, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(comm->local, &comm->local_rank));
    MPI_TRY(MPI_Comm_size(comm->local, &comm->local_size));
    char name[MPI_MAX_PROCESSOR_NAME] = "";
    int length;
    MPI_TRY(MPI_Get_processor_name(name, &length));
    snprintf(comm->node, sizeof(comm->node), "%.*s", NODE_NAME - 1, name);
    return OHT_OK;
}

// The other ranks may be waiting in a collective call, and nothing is there to agree with them.
static _Noreturn void end_alone(oht_status status) {
    oht_error_print(stderr, oht_error_last(), 0, 1, "");
    oht_comm_abort(NULL, status);
}

oht_status oht_comm_init(int *argc, char ***argv, oht_comm **out) {
    *out = NULL;
    // A program started without mpirun needs no daemon beside it, which Open MPI starts for MPI_Comm_spawn, and no
    // session folder: all such programs of a user share its name, and one that ends takes it from one that starts.
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    if (!getenv("OMPI_COMM_WORLD_RANK") && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
        setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    int provided;
    MPI_TRY(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided));
    oht_comm *comm = NULL;
    oht_status status = OHT_ALLOC(&comm, 1, "communicator");
    if (status != OHT_OK) end_alone(status);
    comm->world = comm->local = MPI_COMM_NULL;
    comm->agree_rank = -1;
    status = set_up(comm, provided);
    if (status != OHT_OK) end_alone(status);
    *out = comm;
    return OHT_OK;
}

void oht_comm_finalize(oht_comm *comm) {
    if (!comm) return;
    if (comm->local != MPI_COMM_NULL) MPI_Comm_free(&comm->local);
    if (comm->world != MPI_COMM_NULL) MPI_Comm_free(&comm->world);
    oht_free(comm);
    MPI_Finalize();
}

void oht_comm_abort(oht_comm *comm, int code) {
    // The code goes through the shell modulo 256: an error must not look like success.
    int seen = code & 255 ? code & 255 : OHT_INTERNAL;
    MPI_Abort(comm ? comm->world : MPI_COMM_WORLD, seen);
    _exit(seen);
}

int oht_comm_rank(const oht_comm *comm) {
    return comm->rank;
}
int oht_comm_size(const oht_comm *comm) {
    return comm->size;
}
int oht_comm_local_rank(const oht_comm *comm) {
    return comm->local_rank;
}
int oht_comm_local_size(const oht_comm *comm) {
    return comm->local_size;
}
const char *oht_comm_node(const oht_comm *comm) {
    return comm->node;
}

// ---- agreement ----

// A request to stop is weaker than an error, which may hide on another rank.
static int severity(oht_status status) {
    return status == OHT_OK ? 0 : status == OHT_STOPPED ? 1 : 2;
}

typedef struct agreed {
    oht_error error;
    char node[NODE_NAME];
} agreed;

oht_status oht_agree(oht_comm *comm, oht_status status) {
    // One number finds the worst kind and the first rank that has it: the maximum of severity, then of -rank.
    int64_t worst = ((int64_t)severity(status) << 32) + (comm->size - 1 - comm->rank);
    MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_INT64_T, MPI_MAX, comm->world));
    if (worst >> 32 == 0) {
        comm->agree_rank = -1;
        return OHT_OK;
    }
    int root = comm->size - 1 - (int)(worst & 0xffffffff);
    agreed message;
    memset(&message, 0, sizeof(message));
    if (comm->rank == root) {
        if (oht_error_last()->code != status)
            (void)oht_error_set(status, __FILE__, __LINE__,
                                status == OHT_STOPPED ? "stopped on request" : "no details recorded");
        message.error = *oht_error_last();
        snprintf(message.node, sizeof(message.node), "%s", comm->node);
    }
    MPI_TRY(MPI_Bcast(&message, (int)sizeof(message), MPI_BYTE, root, comm->world));
    *oht_error_last() = message.error;
    comm->agree_rank = root;
    snprintf(comm->agree_node, sizeof(comm->agree_node), "%s", message.node);
    return oht_error_frame(message.error.code, __FILE__, __LINE__);
}

int oht_agree_rank(const oht_comm *comm) {
    return comm->agree_rank;
}
const char *oht_agree_node(const oht_comm *comm) {
    return comm->agree_rank < 0 ? comm->node : comm->agree_node;
}

// ---- collectives ----

static oht_status reduce(oht_comm *comm, void *x, size_t n, size_t size, MPI_Datatype type, MPI_Op op,
                         size_t piece_bytes) {
    size_t piece = (piece_bytes > PIECE_BYTES ? PIECE_BYTES : piece_bytes) / size;
    if (piece == 0) piece = 1;
    for (size_t i = 0; i < n && comm->size > 1; i += piece) {
        int count = (int)(n - i < piece ? n - i : piece);
        MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, (char *)x + i * size, count, type, op, comm->world));
    }
    return OHT_OK;
}

oht_status oht_sum_f32(oht_comm *comm, float *x, size_t n, size_t piece_bytes) {
    return reduce(comm, x, n, sizeof(*x), MPI_FLOAT, MPI_SUM, piece_bytes);
}

// In place, MPI leaves the result in the first row.
oht_status oht_reduce_scatter_f32(oht_comm *comm, float *x, size_t n) {
    if (comm->size == 1) return OHT_OK;
    if (n > INT_MAX) OHT_FAIL(OHT_INTERNAL, "rows of %zu floats are too long for one call", n);
    MPI_TRY(MPI_Reduce_scatter_block(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, comm->world));
    if (comm->rank > 0) memcpy(x + (size_t)comm->rank * n, x, n * sizeof(*x));
    return OHT_OK;
}

oht_status oht_all_gather_f32(oht_comm *comm, float *x, size_t n) {
    if (comm->size == 1) return OHT_OK;
    if (n > INT_MAX) OHT_FAIL(OHT_INTERNAL, "rows of %zu floats are too long for one call", n);
    MPI_TRY(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, (int)n, MPI_FLOAT, comm->world));
    return OHT_OK;
}

oht_status oht_sum_f64(oht_comm *comm, double *x, size_t n) {
    return reduce(comm, x, n, sizeof(*x), MPI_DOUBLE, MPI_SUM, PIECE_BYTES);
}
oht_status oht_max_f64(oht_comm *comm, double *x, size_t n) {
    return reduce(comm, x, n, sizeof(*x), MPI_DOUBLE, MPI_MAX, PIECE_BYTES);
}

oht_status oht_broadcast(oht_comm *comm, void *bytes, size_t n, int root) {
    for (size_t i = 0; i < n; i += PIECE_BYTES) {
        int count = (int)(n - i < PIECE_BYTES ? n - i : PIECE_BYTES);
        MPI_TRY(MPI_Bcast((char *)bytes + i, count, MPI_BYTE, root, comm->world));
    }
    return OHT_OK;
}

oht_status oht_barrier(oht_comm *comm) {
    MPI_TRY(MPI_Barrier(comm->world));
    return OHT_OK;
}

oht_status oht_gather_bytes(oht_comm *comm, const void *bytes, size_t n, void *out, int root) {
    for (size_t i = 0; i < n; i += PIECE_BYTES) {
        int count = (int)(n - i < PIECE_BYTES ? n - i : PIECE_BYTES);
        // Received elements lie n bytes apart, whatever the piece.
        MPI_Datatype piece, spaced;
        MPI_TRY(MPI_Type_contiguous(count, MPI_BYTE, &piece));
        MPI_TRY(MPI_Type_create_resized(piece, 0, (MPI_Aint)n, &spaced));
        MPI_TRY(MPI_Type_commit(&spaced));
        char *into = out ? (char *)out + i : NULL;
        int code = MPI_Gather((const char *)bytes + i, count, MPI_BYTE, into, 1, spaced, root, comm->world);
        MPI_Type_free(&spaced);
        MPI_Type_free(&piece);
        if (code != MPI_SUCCESS) return mpi_failed(code, "MPI_Gather(bytes)", __FILE__, __LINE__);
    }
    return OHT_OK;
}

oht_status oht_send(oht_comm *comm, const void *bytes, size_t n, int to) {
    for (size_t i = 0; i == 0 || i < n; i += PIECE_BYTES) {
        int count = (int)(n - i < PIECE_BYTES ? n - i : PIECE_BYTES);
        MPI_TRY(MPI_Send((const char *)bytes + i, count, MPI_BYTE, to, 0, comm->world));
    }
    return OHT_OK;
}

oht_status oht_receive(oht_comm *comm, void *bytes, size_t n, int from) {
    for (size_t i = 0; i == 0 || i < n; i += PIECE_BYTES) {
        int count = (int)(n - i < PIECE_BYTES ? n - i : PIECE_BYTES), got;
        MPI_Status info;
        MPI_TRY(MPI_Recv((char *)bytes + i, count, MPI_BYTE, from, 0, comm->world, &info));
        MPI_TRY(MPI_Get_count(&info, MPI_BYTE, &got));
        if (got != count) OHT_FAIL(OHT_COMM, "rank %d sent %d bytes, expected %d", from, got, count);
    }
    return OHT_OK;
}

// ---- who runs where ----

typedef struct place {
    cpu_set_t cores; // that this rank may use
    int leader; // world rank of the first rank of its node
    int threads;
    char node[NODE_NAME];
    char device[96];
} place;

// "rank 0 on cuda 0, rank 1 on cuda 1" or "ranks 0-3 on cpu": the node's ranks, neighbours on the same device together.
static void list_ranks(const place *ranks, int size, int leader, char *out, size_t room) {
    size_t used = 0;
    for (int r = leader; r < size && used < room; r++) {
        if (ranks[r].leader != leader) continue;
        int last = r;
        while (last + 1 < size && ranks[last + 1].leader == leader && strcmp(ranks[last + 1].device, ranks[r].device) == 0)
            last++;
        const char *comma = used > 0 ? ", " : "";
        int n = last == r ? snprintf(out + used, room - used, "%srank %d on %s", comma, r, ranks[r].device)
                          : snprintf(out + used, room - used, "%sranks %d-%d on %s", comma, r, last, ranks[r].device);
        used += n < 0 ? room : (size_t)n;
        r = last;
    }
    if (used >= room) snprintf(out + room - 5, 5, " ...");
}

static void describe_node(const place *ranks, int size, int leader) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    int n = 0, threads = 0, crowded = -1;
    for (int r = 0; r < size; r++) {
        if (ranks[r].leader != leader) continue;
        n++;
        threads += ranks[r].threads;
        CPU_OR(&cores, &cores, &ranks[r].cores);
        if (crowded < 0 && ranks[r].threads > CPU_COUNT(&ranks[r].cores)) crowded = r;
    }
    const char *node = ranks[leader].node;
    int available = CPU_COUNT(&cores);
    char list[1024];
    list_ranks(ranks, size, leader, list, sizeof(list));
    oht_log("node %s: %d rank%s, %d core%s, %d thread%s: %s", node, n, n == 1 ? "" : "s", available,
            available == 1 ? "" : "s", threads, threads == 1 ? "" : "s", list);
    if (crowded >= 0)
        oht_warn("rank %d on node %s runs %d threads on %d core%s: it will be slow (fix: mpirun --bind-to "
                 "none, or "
                 "--map-by slot:PE=%d, or OMP_NUM_THREADS=%d)",
                 crowded, node, ranks[crowded].threads, CPU_COUNT(&ranks[crowded].cores),
                 CPU_COUNT(&ranks[crowded].cores) == 1 ? "" : "s", ranks[crowded].threads,
                 CPU_COUNT(&ranks[crowded].cores));
    else if (n > available)
        oht_warn("node %s runs %d ranks on %d core%s: it will be slow (fix: fewer ranks on the node)", node, n,
                 available, available == 1 ? "" : "s");
    else if (threads > available)
        oht_warn("node %s runs %d threads on %d core%s: it will be slow (fix: fewer ranks on the node, or "
                 "OMP_NUM_THREADS=%d)",
                 node, threads, available, available == 1 ? "" : "s", available / n);
}

oht_status oht_comm_describe(oht_comm *comm, const char *device) {
    place mine;
    memset(&mine, 0, sizeof(mine));
    mine.leader = comm->rank;
    mine.threads = omp_get_max_threads();
    snprintf(mine.node, sizeof(mine.node), "%s", comm->node);
    snprintf(mine.device, sizeof(mine.device), "%s", device);
    if (sched_getaffinity(0, sizeof(mine.cores), &mine.cores) != 0) // more cores than a cpu_set_t names
        for (size_t i = 0; i < CPU_SETSIZE && i < (size_t)sysconf(_SC_NPROCESSORS_ONLN); i++)
            CPU_SET(i, &mine.cores);
    MPI_TRY(MPI_Bcast(&mine.leader, 1, MPI_INT, 0, comm->local));
    place *all = NULL;
    oht_status status = OHT_OK;
    if (comm->rank == 0) status = OHT_ALLOC(&all, (size_t)comm->size, "places of the ranks");
    OHT_TRY_GOTO(status, oht_agree(comm, status), done);
    OHT_TRY_GOTO(status, oht_gather_bytes(comm, &mine, sizeof(mine), all, 0), done);
    for (int r = 0; comm->rank == 0 && r < comm->size; r++)
        if (all[r].leader == r) describe_node(all, comm->size, r);
done:
    oht_free(all);
    return status;
}
