// The communicator: sums, gathers and messages with odd lengths and pieces, agreement about errors, errors of
// MPI itself.
#include "mpi_main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/log.h"
#include "oht/memory.h"

enum { N = 10007 };

static void ranks_know_their_place(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    int rank = oht_comm_rank(c), size = oht_comm_size(c);
    const char *launched = getenv("OMPI_COMM_WORLD_SIZE");
    OHT_CHECK(&f, size == (launched ? atoi(launched) : 1));
    OHT_CHECK(&f, rank >= 0 && rank < size);
    OHT_CHECK(&f, oht_comm_local_rank(c) == rank && oht_comm_local_size(c) == size); // the tests run on one node
    OHT_CHECK(&f, oht_comm_node(c)[0] != '\0');
    int seen[64] = {0};
    OHT_CHECK(&f, oht_gather_bytes(c, &rank, sizeof(rank), seen, 0) == OHT_OK);
    for (int r = 0; r < size && rank == 0; r++) OHT_CHECK(&f, seen[r] == r);
    oht_mpi_verdict(c, &f);
}

static void sums_are_right_in_any_piece(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    int rank = oht_comm_rank(c), size = oht_comm_size(c);
    float *x = calloc(N + 1, sizeof(*x)), *whole = calloc(N, sizeof(*whole));
    const size_t lengths[] = {0, 1, 2, 1023, 1024, 1025, N};
    const size_t pieces[] = {0, 1, 4, 7, 4096, 2u << 20, SIZE_MAX};
    for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths); l++)
        for (size_t p = 0; p < sizeof(pieces) / sizeof(*pieces); p++) {
            if (pieces[p] < 4096 && lengths[l] > 2000) continue; // thousands of tiny calls prove no more
            for (size_t i = 0; i <= lengths[l]; i++) x[i] = (float)((int)(i % 97) + 1000 * rank);
            OHT_CHECK(&f, oht_sum_f32(c, x, lengths[l], pieces[p]) == OHT_OK);
            for (size_t i = 0; i < lengths[l]; i++) // integers below 2^24: exact
                OHT_CHECK(&f, x[i] == (float)(size * (int)(i % 97) + 1000 * size * (size - 1) / 2));
            OHT_CHECK(&f, x[lengths[l]] ==
                              (float)((int)(lengths[l] % 97) + 1000 * rank)); // nothing beyond the end
        }
    // All ranks hold the same bits, twice the same ones.
    for (int again = 0; again < 2; again++) {
        for (size_t i = 0; i < N; i++) x[i] = (float)((double)(i + 1) / (rank + 3));
        OHT_CHECK(&f, oht_sum_f32(c, x, N, 4096) == OHT_OK);
        if (again == 0) memcpy(whole, x, N * sizeof(*x));
        OHT_CHECK(&f, memcmp(whole, x, N * sizeof(*x)) == 0);
        OHT_CHECK(&f, oht_broadcast(c, whole, N * sizeof(*x), 0) == OHT_OK);
        OHT_CHECK(&f, memcmp(whole, x, N * sizeof(*x)) == 0);
    }
    double d[3] = {rank + 0.5, -1e300 * rank, 1.0}, m[2] = {(double)rank, -(double)rank};
    OHT_CHECK(&f, oht_sum_f64(c, d, 3) == OHT_OK);
    OHT_CHECK(&f, d[0] == size * (size - 1) / 2.0 + 0.5 * size && d[2] == size);
    OHT_CHECK(&f, oht_max_f64(c, m, 2) == OHT_OK && m[0] == size - 1 && m[1] == 0.0);
    free(x);
    free(whole);
    oht_mpi_verdict(c, &f);
}

static void bytes_travel(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    int rank = oht_comm_rank(c), size = oht_comm_size(c), last = size - 1;
    const size_t lengths[] = {0, 1, 3, 4097, 300001}; // eager and rendezvous messages
    for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths); l++) {
        size_t n = lengths[l];
        unsigned char *mine = malloc(n + 1), *all = malloc((size_t)size * n + 1);
        for (size_t i = 0; i < n; i++) mine[i] = (unsigned char)(i * 7 + (size_t)rank);
        OHT_CHECK(&f, oht_gather_bytes(c, mine, n, rank == last ? all : NULL, last) == OHT_OK);
        for (size_t i = 0; rank == last && i < (size_t)size * n; i++)
            OHT_CHECK(&f, all[i] == (unsigned char)((i % n) * 7 + i / n));
        OHT_CHECK(&f, oht_broadcast(c, mine, n, last) == OHT_OK);
        for (size_t i = 0; i < n; i++) OHT_CHECK(&f, mine[i] == (unsigned char)(i * 7 + (size_t)last));
        if (size > 1 && rank == 0) OHT_CHECK(&f, oht_send(c, mine, n, last) == OHT_OK);
        if (size > 1 && rank == last) {
            memset(mine, 0, n + 1);
            OHT_CHECK(&f, oht_receive(c, mine, n, 0) == OHT_OK);
            for (size_t i = 0; i < n; i++) OHT_CHECK(&f, mine[i] == (unsigned char)(i * 7 + (size_t)last));
        }
        free(mine);
        free(all);
    }
    OHT_CHECK(&f, oht_barrier(c) == OHT_OK);
    oht_mpi_verdict(c, &f);
}

static oht_status fail_data(int rank) {
    OHT_FAIL(OHT_DATA, "file of rank %d is damaged\nfix: copy it again", rank);
}
static oht_status fail_memory(int rank) {
    OHT_FAIL(OHT_MEMORY, "rank %d has no memory", rank);
}

static void ranks_agree_on_errors(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    int rank = oht_comm_rank(c), size = oht_comm_size(c);
    OHT_CHECK(&f, oht_agree(c, OHT_OK) == OHT_OK && oht_agree_rank(c) == -1);
    for (int bad = 0; bad < size; bad++) { // exactly one rank fails, each in turn
        char expected[100];
        snprintf(expected, sizeof(expected), "file of rank %d is damaged\nfix: copy it again", bad);
        oht_status mine = rank == bad ? fail_data(rank) : OHT_OK;
        OHT_CHECK(&f, oht_agree(c, mine) == OHT_DATA);
        OHT_CHECK(&f, oht_agree_rank(c) == bad);
        OHT_CHECK(&f, strcmp(oht_agree_node(c), oht_comm_node(c)) == 0);
        OHT_CHECK(&f, oht_error_last()->code == OHT_DATA && strcmp(oht_error_last()->text, expected) == 0);
        OHT_CHECK(&f, oht_error_last()->n_frames == 2);
        OHT_CHECK(&f, strstr(oht_error_last()->frame[0], "test_comm.c:") != NULL);
    }
    // Several fail in different ways: the first rank's status and message, together. An error beats a request
    // to stop.
    oht_status mine = rank == 0 ? OHT_STOPPED : rank == 1 ? fail_memory(rank) : fail_data(rank);
    oht_status all = oht_agree(c, mine);
    OHT_CHECK(&f, all == (size == 1 ? OHT_STOPPED : OHT_MEMORY));
    OHT_CHECK(&f, oht_agree_rank(c) == (size == 1 ? 0 : 1));
    OHT_CHECK(&f, oht_error_last()->code == all);
    // A status without a record of its own must not borrow an older message.
    OHT_CHECK(&f, oht_agree(c, rank == size - 1 ? OHT_NUMERIC : OHT_OK) == OHT_NUMERIC);
    OHT_CHECK(&f, oht_error_last()->code == OHT_NUMERIC && strstr(oht_error_last()->text, "rank") == NULL);
    OHT_CHECK(&f, oht_agree(c, OHT_OK) == OHT_OK && oht_agree_rank(c) == -1);
    oht_mpi_verdict(c, &f);
}

static void mpi_errors_come_back(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    int rank = oht_comm_rank(c), size = oht_comm_size(c);
    char byte[8] = {0};
    OHT_CHECK(&f, oht_send(c, byte, 1, size + 5) == OHT_COMM);
    OHT_CHECK(&f, strstr(oht_error_last()->text, "MPI_Send(") != NULL); // the call is quoted
    OHT_CHECK(&f, strstr(oht_error_last()->text, "MPI_ERR_RANK") != NULL);
    OHT_CHECK(&f, oht_broadcast(c, byte, 1, -3) == OHT_COMM);
    if (size > 1 && rank == 1) {
        OHT_CHECK(&f, oht_send(c, byte, 3, 0) == OHT_OK);
        OHT_CHECK(&f, oht_send(c, byte, 8, 0) == OHT_OK);
    }
    if (size > 1 && rank == 0) {
        OHT_CHECK(&f, oht_receive(c, byte, 8, 1) == OHT_COMM); // too short
        OHT_CHECK(&f, strstr(oht_error_last()->text, "sent 3 bytes, expected 8") != NULL);
        OHT_CHECK(&f, oht_receive(c, byte, 4, 1) == OHT_COMM); // too long
    }
    OHT_CHECK(&f, oht_barrier(c) == OHT_OK); // and the job goes on
    oht_mpi_verdict(c, &f);
}

// Rank 0 says how many ranks, cores and threads a node has, and warns when the threads are too many.
static void nodes_are_described(void **state) {
    (void)state;
    oht_mpi_findings f = {0};
    oht_comm *c = oht_mpi_comm();
    char text[4096] = "", expected[200];
    FILE *file = tmpfile();
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    oht_status status = oht_comm_describe(c, oht_comm_rank(c) == 3 ? "cuda 3" : "cpu");
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    OHT_CHECK(&f, status == OHT_OK);
    int size = oht_comm_size(c);
    snprintf(expected, sizeof(expected), "node %s: %d rank%s, ", oht_comm_node(c), size,
             size == 1 ? "" : "s");
    if (oht_comm_rank(c) == 0) {
        char *line = strstr(text, expected);
        int cores = 0, threads = 0;
        OHT_CHECK(&f, line == text);
        OHT_CHECK(&f,
                  line && sscanf(line + strlen(expected), "%d core%*[s,] %d thread", &cores, &threads) == 2);
        OHT_CHECK(&f, cores > 0 && threads > 0);
        static const char *const MAP[] = {"", ": rank 0 on cpu\n", ": ranks 0-1 on cpu\n", "", ": ranks 0-2 on cpu, rank 3 on cuda 3\n"};
        OHT_CHECK(&f, size > 4 || strstr(text, MAP[size]) != NULL);
        OHT_CHECK(&f, (threads > cores) == (strstr(text, "warning: ") != NULL));
    } else
        OHT_CHECK(&f, text[0] == '\0');
    oht_mpi_verdict(c, &f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_know_their_place), cmocka_unit_test(sums_are_right_in_any_piece),
        cmocka_unit_test(bytes_travel),           cmocka_unit_test(ranks_agree_on_errors),
        cmocka_unit_test(mpi_errors_come_back),   cmocka_unit_test(nodes_are_described),
    };
    return oht_mpi_main(argc, argv, tests, sizeof(tests) / sizeof(*tests));
}
