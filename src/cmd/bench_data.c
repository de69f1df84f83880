// What preparing images costs, measured on the file that data.path names: the loader alone, in processor time, so that a busy
// machine does not spoil it; then real steps, of which the loader says how long the trainer waited for it.
#include "cmd/bench_data.h"

#include <time.h>
#include <unistd.h>

#include "oht/h5.h"
#include "oht/log.h"

static const double LOADER_SECONDS = 1.0;
enum { IMAGES_A_STEP = 32, MOST_LOADER_STEPS = 10000 };

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Is there a file of images? Another file, or none, is no error: bench needs no data. Collective.
static oht_status find_file(const oht_session *s, bool *found) {
    const char *path = s->cfg->data.path;
    int64_t is_there = 0;
    oht_status status = OHT_OK;
    oht_h5_silence();
    if (oht_comm_rank(s->comm) == 0 && access(path, F_OK) == 0) {
        oht_data_info info;
        status = oht_data_describe(&info, path);
        is_there = status == OHT_OK && info.task == OHT_TASK_IMAGES;
    }
    OHT_TRY(oht_agree(s->comm, status));
    OHT_TRY(oht_broadcast(s->comm, &is_there, sizeof(is_there), 0));
    *found = is_there != 0;
    return OHT_OK;
}

// Takes steps as fast as they come. The main thread sleeps meanwhile: the processor time is the loader's.
static oht_status drain(oht_loader *loader, double *images_per_cpu_s) {
    const oht_step_batch *batch;
    int64_t images = 0;
    OHT_TRY(oht_loader_next(loader, &batch)); // buffers grow, the file comes into the cache
    double start = oht_clock_s(), cpu = cpu_s();
    do {
        OHT_TRY(oht_loader_next(loader, &batch));
        images += batch ? batch->rows : 0;
    } while (batch && oht_clock_s() - start < LOADER_SECONDS);
    double spent = cpu_s() - cpu;
    *images_per_cpu_s = spent > 0 ? (double)images / spent : 0;
    return OHT_OK;
}

static oht_status measure_rate(oht_session *s, double *rate) {
    int size = oht_comm_size(s->comm);
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, (int64_t)IMAGES_A_STEP * size,
                                              IMAGES_A_STEP, 0, MOST_LOADER_STEPS);
    oht_loader *loader = NULL;
    oht_status status = oht_loader_create(&loader, s->cfg->data.path, &lc);
    if (status == OHT_OK) status = drain(loader, rate);
    oht_loader_destroy(loader);
    OHT_TRY(oht_agree(s->comm, status));
    OHT_TRY(oht_sum_f64(s->comm, rate, 1));
    *rate /= size;
    return OHT_OK;
}

static oht_status take_steps(oht_session *s, oht_loader *loader, int64_t steps, double *waiting) {
    double start = 0, waited = 0;
    for (int64_t i = 0; i <= steps; i++) { // the first one warms up
        const oht_step_batch *batch = NULL;
        oht_step_result r;
        if (i == 1) {
            start = oht_clock_s();
            waited = oht_loader_wait_s(loader);
        }
        oht_status status = oht_loader_next(loader, &batch);
        OHT_TRY(oht_step(s, batch, status, false, &r));
        if (r.stop) OHT_FAIL(OHT_STOPPED, "bench: asked to stop");
        oht_progress(i, steps, false, "steps on %s", s->cfg->data.path);
    }
    oht_progress_end();
    double seconds = oht_clock_s() - start;
    *waiting = seconds > 0 ? (oht_loader_wait_s(loader) - waited) / seconds : 0;
    return oht_max_f64(s->comm, waiting, 1);
}

static oht_status measure_waiting(oht_session *s, int64_t steps, double *waiting) {
    const oht_train_config *t = &s->cfg->train;
    oht_loader_config lc = oht_session_loader(s, OHT_SPLIT_TRAIN, t->global_batch,
                                              oht_graph_rows(s->train_graph), 0, steps + 1);
    oht_loader *loader = NULL;
    oht_status status = oht_agree(s->comm, oht_loader_create(&loader, s->cfg->data.path, &lc));
    if (status == OHT_OK) status = take_steps(s, loader, steps, waiting);
    oht_loader_destroy(loader);
    return status;
}

oht_status bench_images(oht_session *s, int64_t steps, bench_data *out) {
    *out = (bench_data){0};
    OHT_TRY(find_file(s, &out->measured));
    if (!out->measured) return OHT_OK;
    OHT_TRY(measure_rate(s, &out->rate));
    return measure_waiting(s, steps, &out->waiting);
}
