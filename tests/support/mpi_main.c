// Running CMocka under mpirun (mpi_main.h).
#include "mpi_main.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/log.h"

static oht_comm *world;

oht_comm *oht_mpi_comm(void) {
    return world;
}

void oht_mpi_note(oht_mpi_findings *findings, const char *text, int line) {
    if (findings->wrong++ > 0) return;
    findings->line = line;
    snprintf(findings->text, sizeof(findings->text), "%s", text);
}

void oht_mpi_verdict(oht_comm *comm, const oht_mpi_findings *findings) {
    int size = oht_comm_size(comm), rank = oht_comm_rank(comm);
    oht_mpi_findings *all = calloc((size_t)size, sizeof(*all));
    // Without a working communicator nothing can be agreed on: end the job.
    if (!all || oht_gather_bytes(comm, findings, sizeof(*findings), all, 0) != OHT_OK ||
        oht_broadcast(comm, all, (size_t)size * sizeof(*all), 0) != OHT_OK)
        oht_comm_abort(comm, OHT_COMM);
    int wrong = 0;
    for (int r = 0; r < size; r++) {
        wrong += all[r].wrong;
        if (all[r].wrong && rank == 0)
            print_error("rank %d of %d: %d checks failed, the first in line %d: %s\n", r, size, all[r].wrong,
                        all[r].line, all[r].text);
    }
    free(all);
    assert_int_equal(wrong, 0);
}

int oht_mpi_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n) {
    if (oht_comm_init(&argc, &argv, &world) != OHT_OK) {
        fprintf(stderr, "%s\n", oht_error_last()->text);
        return 1;
    }
    oht_log_init(oht_comm_rank(world), false, "lines");
    if (oht_comm_rank(world) > 0) { // stderr stays: a sanitizer or a crash speaks there
        int nowhere = open("/dev/null", O_WRONLY);
        if (nowhere >= 0) dup2(nowhere, STDOUT_FILENO);
        if (nowhere >= 0) close(nowhere);
    }
    int failed = _cmocka_run_group_tests("mpi", tests, n, NULL, NULL);
    fflush(NULL);
    oht_comm_finalize(world);
    return failed ? 1 : 0;
}
