// ohtrain: arguments -> MPI -> command -> exit code. The one place that prints errors.
//
// Commands return errors that all ranks agree on, so rank 0 prints for all and every rank leaves through
// MPI_Finalize with the same code. A failed communication cannot be agreed on: then the rank that saw it
// prints and aborts the job.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"
#include "oht/backend.h"
#include "oht/cmd.h"
#include "oht/h5.h"
#include "oht/log.h"
#include "oht/signals.h"

static const oht_command *const COMMANDS[] = {
    &oht_cmd_train, &oht_cmd_eval, &oht_cmd_prepare, &oht_cmd_report, &oht_cmd_check, &oht_cmd_bench, NULL};

static const char *const HELP =
    "With no command word, ohtrain trains; with nothing at all it trains the built-in demo.\n"
    "mpirun -np 2 ohtrain ... runs any command on two ranks.\n"
    "\n"
    "  ohtrain COMMAND --help   options, keys and examples of a command\n"
    "  ohtrain --version\n"
    "\n"
    "Exit codes: 0 done, 1 internal error or failed check, 2 usage or configuration, 3 data, 4 not finite,\n"
    "5 device or communication, 6 input/output, 7 memory, 75 stopped by SIGUSR1, SIGTERM, SIGINT or SIGHUP: "
    "train\n"
    "after a good checkpoint, other commands with nothing left behind; the same command again does the "
    "rest.\n";

static const char *command_name(const void *ctx, int i) {
    (void)ctx;
    return COMMANDS[i] ? COMMANDS[i]->name : NULL;
}

static const oht_command *find_command(const char *name) {
    for (int i = 0; COMMANDS[i]; i++)
        if (strcmp(COMMANDS[i]->name, name) == 0) return COMMANDS[i];
    return NULL;
}

static void print_help(const oht_command *command) {
    if (!command) {
        printf("ohtrain " OHT_VERSION
               ": trains transformers with outlier-efficient attention and measures their outliers.\n\n");
        for (int i = 0; COMMANDS[i]; i++)
            printf("  ohtrain %s %s\n      %s\n", COMMANDS[i]->name, COMMANDS[i]->usage,
                   COMMANDS[i]->summary);
        printf("\n%s", HELP);
        return;
    }
    printf("ohtrain %s %s\n\n%s\n\n%s", command->name, command->usage, command->summary, command->help);
    if (command->print_options) command->print_options(stdout);
    if (strstr(command->usage, "key=value")) {
        printf("\n");
        oht_config_help(stdout);
    }
}

// Under a launcher only its first process may print what needs no MPI.
static bool speaks_before_mpi(void) {
    static const char *const NAMES[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++) {
        const char *rank = getenv(NAMES[i]);
        if (rank) return strcmp(rank, "0") == 0;
    }
    return true;
}

// --help, --version and the like; they work without MPI. Returns whether there was one.
static bool answer(const oht_command *command, int argc, char **argv) {
    bool help = false, version = false, reference = false;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        help |= strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
        version |= i == 1 && strcmp(argv[i], "--version") == 0;
        reference |= i == 1 && strcmp(argv[i], "--reference") == 0; // the tables of jobs/README.md
    }
    if (!help && !version && !reference) return false;
    if (!speaks_before_mpi()) return true;
    if (help)
        print_help(command);
    else if (version)
        printf("ohtrain " OHT_VERSION "\n");
    else
        oht_config_reference(stdout);
    return true;
}

static oht_status unknown_command(const char *word) {
    const char *near = oht_nearest(word, command_name, NULL);
    OHT_FAIL(OHT_CONFIG, "unknown command \"%.100s\"%s%s\nfix: ohtrain --help lists the commands", word,
             near ? "; nearest: " : "", near ? near : "");
}

int main(int argc, char **argv) {
    // A word that is neither option nor key=value is a command; everything else means train.
    bool word = argc > 1 && argv[1][0] != '-' && !strchr(argv[1], '=');
    const oht_command *command = find_command(word ? argv[1] : "train");
    if (command && answer(word ? command : NULL, argc, argv))
        return fflush(stdout) == 0 && !ferror(stdout) ? OHT_OK : OHT_IO;

    oht_blas_best_kernels(argv);
    oht_signals_install(); // MPI_Init takes a second: a stop request meanwhile is not a kill
    oht_comm *comm;
    oht_status status = oht_comm_init(&argc, &argv, &comm);
    if (status != OHT_OK) {
        oht_error_print(stderr, oht_error_last(), 0, 1, "");
        return status;
    }
    oht_signals_install(); // again, whatever MPI has done to them
    oht_log_init(oht_comm_rank(comm), false, "auto");
    oht_h5_silence();
    if (!command) {
        status = unknown_command(argv[1]);
    } else if (word) {
        status = command->run(comm, argc - 1, argv + 1);
    } else {
        static char name[] = "train";
        argv[0] = name;
        status = command->run(comm, argc, argv);
    }
    if (status == OHT_STOPPED && command != &oht_cmd_train)
        (void)oht_error_set(
            OHT_STOPPED, __FILE__, __LINE__,
            "%s: stopped on request before it was done\nfix: start the same command again; it "
            "begins anew",
            command->name);
    // Others may wait for this rank, unless it was agreed on ("no GPU here").
    if (status == OHT_COMM && oht_comm_size(comm) > 1 && oht_agree_rank(comm) < 0) {
        oht_error_print(stderr, oht_error_last(), oht_comm_rank(comm), oht_comm_size(comm),
                        oht_comm_node(comm));
        oht_comm_abort(comm, status);
    }
    // A usage error is everybody's (rank -1); other errors say on which rank they happened.
    int rank = oht_agree_rank(comm);
    if (status != OHT_OK && oht_comm_rank(comm) == 0)
        oht_error_print(stderr, oht_error_last(), rank,
                        rank < 0 || status == OHT_CONFIG ? 1 : oht_comm_size(comm), oht_agree_node(comm));
    oht_comm_finalize(comm);
    return status;
}
