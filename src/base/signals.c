// Stop requests. SIGUSR1 (the contract), SIGTERM (best effort: mpirun follows it with a kill about a second
// later), SIGHUP (the terminal is gone) and SIGINT only set a flag; the loops poll it and agree on it. A second
// SIGINT or SIGHUP ends the process: who presses Ctrl-C again does not want to wait. SIGCONT, which mpirun sends before SIGTERM, means nothing here.
// SIGXFSZ is ignored so that a file size limit comes back as an error of write().
#include "oht/signals.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t stop_asked;

static void on_stop(int number) {
    (void)number;
    stop_asked = 1;
}

void oht_signals_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART; // MPI's and HDF5's system calls go on
    action.sa_handler = on_stop;
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    static const int once[] = {SIGINT, SIGHUP};
    action.sa_flags |= (int)SA_RESETHAND;
    for (size_t i = 0; !stop_asked && i < sizeof(once) / sizeof(once[0]); i++) {
        struct sigaction now; // nohup and background jobs ignore them, and that stays
        if (sigaction(once[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(once[i], &action, NULL);
    }
    action.sa_flags = SA_RESTART;
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, NULL);
}

bool oht_signals_stop_asked(void) {
    return stop_asked != 0;
}

oht_status oht_signals_check(void) {
    if (stop_asked) OHT_FAIL(OHT_STOPPED, "asked to stop");
    return OHT_OK;
}
