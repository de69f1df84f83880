// ohtrain train: from options to oht_train.
#include <signal.h>
#include <string.h>

#include "oht/cmd.h"
#include "oht/log.h"
#include "oht/train.h"

// Without -o: runs/NAME, where NAME is the configuration file's, or demo.
static oht_status run_directory(const oht_options *opt, char out[OHT_PATH]) {
    int n;
    if (opt->out) {
        n = snprintf(out, OHT_PATH, "%s", opt->out);
    } else {
        const char *name = opt->config ? opt->config : "demo", *slash = strrchr(name, '/');
        if (slash) name = slash + 1;
        const char *dot = strrchr(name, '.');
        n = snprintf(out, OHT_PATH, "runs/%.*s", dot && dot != name ? (int)(dot - name) : (int)strlen(name),
                     name);
    }
    if (n < 0 || n >= OHT_PATH)
        OHT_FAIL(OHT_CONFIG, "the path of the run directory is too long: %.100s...", out);
    return OHT_OK;
}

static oht_status read_configuration(const oht_options *opt, const char *rundir, oht_config *cfg) {
    OHT_TRY(oht_options_config(opt, cfg));
    OHT_TRY(oht_options_run_data(opt, rundir, false, cfg));
    return OHT_OK;
}

static oht_status run(oht_comm *comm, int argc, char **argv) {
    oht_options opt;
    oht_config cfg;
    char path[OHT_PATH];
    signal(SIGPIPE, SIG_IGN); // a reader of the log that goes away (| head) does not end the run
    OHT_TRY(oht_options_parse(argc, argv, OHT_OPT_CONFIG | OHT_OPT_OUT | OHT_OPT_QUIET | OHT_OPT_KEYS, &opt));
    OHT_TRY(run_directory(&opt, path));
    OHT_TRY(oht_agree(comm, read_configuration(&opt, path, &cfg)));
    oht_log_init(oht_comm_rank(comm), opt.quiet, cfg.run.progress);
    OHT_TRY(oht_train(comm, &cfg, path));
    return OHT_OK;
}

const oht_command oht_cmd_train = {
    .name = "train",
    .usage = "[-c FILE.yaml] [-o RUNDIR] [--quiet] [key=value ...]",
    .summary = "train a model; continues the run that RUNDIR holds",
    .run = run,
    .help = "  -c FILE    configuration; without it, the built-in demo\n"
            "  -o RUNDIR  where everything goes (default runs/NAME of the configuration file)\n"
            "  --quiet    no progress on stderr\n"
            "\n"
            "RUNDIR holds config.yaml, metrics.jsonl, outliers.h5 and checkpoints/. The same command again "
            "continues\n"
            "from the newest good checkpoint. SIGUSR1 (to mpirun or a rank) asks for a checkpoint and ends "
            "with exit\n"
            "code 75: start the same command again to continue.\n"
            "\n"
            "  ohtrain train -c jobs/opt-125m.yaml -o runs/softmax1 model.attention=softmax1\n"
            "  mpirun -np 2 --bind-to none ohtrain train -c jobs/bert-base.yaml train.steps=1000\n",
};
