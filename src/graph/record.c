// Stretches of a training run as recordings of the device (oht_recorder): most steps of a plan queue the same work whenever as
// many samples run, so a stretch of them is recorded when it runs for the second time (the first makes plans and loads
// kernels) and from then on queued as a whole. What differs from micro-batch to micro-batch the kernels read from device
// memory (run_numbers). By themselves run steps on masked positions, whose number differs, and taps that somebody looks at;
// a stretch also ends where the trainer wants to know that a piece of the gradient is complete.
#include "graph/internal.h"
#include "oht/memory.h"

enum {
    MOST = 512, // recordings of a run
    SHORTEST = 4, // steps that are worth one
};

typedef struct recording {
    int first, end; // steps
    int64_t rows;
    bool adds, scaled; // backward: parameter gradients add up, the loss has a gradient
    void *work; // of the device; NULL: the stretch has run once
} recording;

oht_status recordings_create(run_state *s) {
    const oht_graph *g = s->pub.graph;
    s->pub.records = true;
    return g->be->recorder && g->mode == OHT_TRAIN ? OHT_ALLOC(&s->recording, MOST, "recordings") : OHT_OK;
}

static void discard_all(run_state *s) {
    for (int i = 0; i < s->n_recordings; i++)
        if (s->recording[i].work) s->pub.be->recorder->discard(s->pub.be, s->recording[i].work);
    s->n_recordings = 0;
}

void recordings_destroy(run_state *s) {
    discard_all(s);
    oht_free(s->recording);
}

static bool alone(const oht_run *run, const graph_step *step) {
    return step->uneven || (run->observer && run->graph->node[step->node]->n_out == 0);
}

static int stretch_end(const oht_run *run, int first, int end) {
    int t = first;
    while (t < end && !alone(run, &run->graph->step[t]))
        if (run_reports(run, t++)) break;
    return t;
}

static void run_plain(oht_run *run, int first, int end) {
    for (int t = first; t < end; t++) run_step(run, t);
}

// NULL: it has not run before, which is noted, or there are too many.
static recording *look_up(run_state *s, int first, int end) {
    bool backward = first >= s->pub.graph->n_forward;
    recording want = {first, end, s->pub.rows, backward && s->pub.add_params, backward && s->pub.loss_scale != 0.0f, NULL};
    for (int i = 0; i < s->n_recordings; i++) {
        recording *k = &s->recording[i];
        if (k->first == first && k->end == end && k->rows == want.rows && k->adds == want.adds && k->scaled == want.scaled) return k;
    }
    if (s->n_recordings < MOST) s->recording[s->n_recordings++] = want;
    return NULL;
}

int run_recorded(oht_run *run, int first, int end) {
    run_state *s = state_of(run);
    const oht_recorder *recorder = run->be->recorder;
    if (!s->recording || !run->records || s->poison || s->profile) return first;
    int to = stretch_end(run, first, end);
    recording *k = to - first >= SHORTEST ? look_up(s, first, to) : NULL;
    if (k && !k->work) {
        if (recorder->begin(run->be)) {
            run_plain(run, first, to);
            k->work = recorder->end(run->be);
        }
        run->records = k->work != NULL;
    }
    if (k && k->work)
        recorder->replay(run->be, k->work);
    else
        run_plain(run, first, to);
    if (!run->records) discard_all(s);
    return to;
}
