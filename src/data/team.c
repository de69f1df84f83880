// A pool of threads for one loop at a time (team.h). OpenMP would do, but its threads belong to the trainer's
// kernels: a second pool inside the loader's thread would fight with them for places.
#include "data/team.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "oht/h5.h"
#include "oht/memory.h"

struct team {
    pthread_t *thread;
    int n; // threads that run beside the caller
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    int64_t loops; // started so far
    int busy; // threads that have not finished the current one
    bool quit;
    // The loop:
    int64_t end;
    team_body body;
    void *ctx;
    const atomic_bool *stop;
    atomic_int_fast64_t next;
    int64_t failed; // smallest i that failed, end = none
    oht_error error;
};

typedef struct worker {
    team *t;
    int number;
} worker;

static void fail(team *t, int64_t i) {
    pthread_mutex_lock(&t->lock);
    if (i < t->failed) {
        t->failed = i;
        t->error = *oht_error_last();
    }
    pthread_mutex_unlock(&t->lock);
    atomic_store(&t->next, t->end); // those before i were all started
}

static void share(team *t, int number) {
    while (!atomic_load_explicit(t->stop, memory_order_relaxed)) {
        int64_t i = atomic_fetch_add(&t->next, 1);
        if (i >= t->end) return;
        if (t->body(t->ctx, i, number) != OHT_OK) fail(t, i);
    }
}

static void *work(void *arg) {
    worker w = *(worker *)arg;
    team *t = w.t;
    oht_free(arg);
    oht_h5_silence();
    int64_t seen = 0;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (t->loops == seen && !t->quit) pthread_cond_wait(&t->start, &t->lock);
        if (t->quit) break;
        seen = t->loops;
        pthread_mutex_unlock(&t->lock);
        share(t, w.number);
        pthread_mutex_lock(&t->lock);
        if (--t->busy == 0) pthread_cond_signal(&t->done);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static oht_status add_thread(team *t) {
    worker *w;
    OHT_TRY(OHT_ALLOC(&w, 1, "loader's worker"));
    *w = (worker){t, t->n + 1};
    int code = pthread_create(&t->thread[t->n], NULL, work, w);
    if (code != 0) {
        oht_free(w);
        OHT_FAIL(OHT_MEMORY, "cannot start thread %d of the loader: %s\nfix: a smaller data.threads",
                 t->n + 2, strerror(code));
    }
    t->n++;
    return OHT_OK;
}

oht_status team_create(team **out, int threads) {
    *out = NULL;
    team *t;
    OHT_TRY(OHT_ALLOC(&t, 1, "loader's workers"));
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->start, NULL);
    pthread_cond_init(&t->done, NULL);
    oht_status status = OHT_ALLOC(&t->thread, (size_t)threads, "loader's workers");
    sigset_t all, before; // signals are for the main thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads && status == OHT_OK; i++) status = add_thread(t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != OHT_OK) {
        team_destroy(t);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = t;
    return OHT_OK;
}

oht_status team_run(team *t, int64_t n, team_body body, void *ctx, const atomic_bool *stop) {
    pthread_mutex_lock(&t->lock);
    t->end = t->failed = n;
    t->body = body;
    t->ctx = ctx;
    t->stop = stop;
    t->busy = t->n;
    t->loops++;
    atomic_store(&t->next, 0);
    pthread_cond_broadcast(&t->start);
    pthread_mutex_unlock(&t->lock);
    share(t, 0);
    pthread_mutex_lock(&t->lock);
    while (t->busy > 0) pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
    if (t->failed == n) return OHT_OK;
    *oht_error_last() = t->error;
    return oht_error_frame(t->error.code, __FILE__, __LINE__);
}

void team_destroy(team *t) {
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    pthread_cond_broadcast(&t->start);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->n; i++) pthread_join(t->thread[i], NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->start);
    pthread_mutex_destroy(&t->lock);
    oht_free(t->thread);
    oht_free(t);
}
