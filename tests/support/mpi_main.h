// CMocka under mpirun. Every rank runs the same tests; only rank 0's report is seen, the others' goes
// nowhere. A CMocka assertion leaves the test by longjmp, so a rank that fails inside a test would leave the
// others in a collective. Therefore: first do the collective work and put the findings into plain data (one
// CHECK a finding), last let oht_mpi_verdict gather them and assert the same thing on every rank.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "oht/dist.h"

typedef struct oht_mpi_findings {
    int wrong; // number of failed checks of this rank
    int line; // line of the first one
    char text[200]; // and what it was
} oht_mpi_findings;

// Notes a failed check and goes on. Never leaves the test.
#define OHT_CHECK(findings, condition)                                                                       \
    do {                                                                                                     \
        if (!(condition)) oht_mpi_note((findings), #condition, __LINE__);                                    \
    } while (0)
void oht_mpi_note(oht_mpi_findings *findings, const char *text, int line);

// Collective: fails the test on every rank when a check failed on any, and prints which, of which rank.
void oht_mpi_verdict(oht_comm *comm, const oht_mpi_findings *findings);

// The communicator of the test program, for tests.
oht_comm *oht_mpi_comm(void);

// Starts MPI, silences CMocka's report on ranks > 0, runs the tests, ends MPI; the result is main's.
int oht_mpi_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n);
