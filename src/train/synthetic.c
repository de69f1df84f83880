// Random batches without a data file: images of random bytes with a random class; series of random numbers around
// 0, as standardised ones are; tokens uniform in the vocabulary; OPT's labels are the next tokens, BERT's the tokens at positions drawn with
// data.mlm_probability. Every draw is a function of (seed, step, sample, token).
#include "train/synthetic.h"

#include <string.h>

#include "oht/memory.h"
#include "oht/random.h"

struct oht_synthetic {
    const oht_session *s;
    int64_t rows; // of this rank
    oht_batch *micro;
    int32_t *tokens, *labels, *positions; // (rows,T) each; picked ones packed per micro-batch
    uint8_t *images; // (rows,S,S,3)
    float *series; // (rows,input,series)
    float *targets; // (rows,classes); series: (rows,horizon,series)
    int64_t *row_id;
    oht_step_batch batch;
};

enum { TOKEN_SITE = 1, PICK_SITE = 2, PIXEL_SITE = 3, CLASS_SITE = 4, SERIES_SITE = 5 };

static int64_t image_bytes(const oht_session *s) {
    return 3 * s->cfg->model.image_size * s->cfg->model.image_size;
}

static int64_t input_values(const oht_session *s) {
    return s->cfg->model.input * s->cfg->model.series;
}
static int64_t target_values(const oht_session *s) {
    return s->cfg->model.horizon * s->cfg->model.series;
}

static oht_status allocate(oht_synthetic *b) {
    size_t rows = (size_t)b->rows, cells = rows * (size_t)b->s->tokens;
    OHT_TRY(OHT_ALLOC(&b->micro, (size_t)b->batch.n_micro, "micro-batches"));
    OHT_TRY(OHT_ALLOC(&b->row_id, rows, "row ids"));
    if (b->s->task == OHT_TASK_IMAGES) {
        OHT_TRY(OHT_ALLOC(&b->images, rows * (size_t)image_bytes(b->s), "images"));
        return OHT_ALLOC(&b->targets, rows * (size_t)b->s->cfg->model.classes, "targets");
    }
    if (b->s->task == OHT_TASK_SERIES) {
        OHT_TRY(OHT_ALLOC(&b->series, rows * (size_t)input_values(b->s), "series"));
        return OHT_ALLOC(&b->targets, rows * (size_t)target_values(b->s), "targets");
    }
    OHT_TRY(OHT_ALLOC(&b->tokens, cells, "tokens"));
    OHT_TRY(OHT_ALLOC(&b->labels, cells, "labels"));
    OHT_TRY(OHT_ALLOC(&b->positions, cells, "positions"));
    return OHT_OK;
}

oht_status oht_synthetic_create(oht_synthetic **out, const oht_session *s) {
    *out = NULL;
    oht_synthetic *b;
    OHT_TRY(OHT_ALLOC(&b, 1, "synthetic batch"));
    int64_t G = s->cfg->train.global_batch, size = oht_comm_size(s->comm), rank = oht_comm_rank(s->comm);
    int64_t most = (G + size - 1) / size, capacity = oht_graph_rows(s->train_graph);
    b->s = s;
    b->rows = rank < G ? (G - rank + size - 1) / size : 0;
    b->batch.n_micro = (most + capacity - 1) / capacity;
    b->batch.rows = b->rows;
    b->batch.global_rows = G;
    oht_status status = allocate(b);
    if (status != OHT_OK) {
        oht_synthetic_destroy(b);
        return status;
    }
    b->batch.micro = b->micro;
    b->batch.row_id = b->row_id;
    *out = b;
    return OHT_OK;
}

void oht_synthetic_destroy(oht_synthetic *b) {
    if (!b) return;
    oht_free(b->micro);
    oht_free(b->tokens);
    oht_free(b->labels);
    oht_free(b->positions);
    oht_free(b->row_id);
    oht_free(b->images);
    oht_free(b->series);
    oht_free(b->targets);
    oht_free(b);
}

static uint32_t draw(const oht_synthetic *b, int site, int64_t step, int64_t sample, int64_t t) {
    uint64_t seed = (uint64_t)b->s->cfg->train.seed;
    return oht_random_block(seed, OHT_DRAW_TEST, (uint32_t)site, (uint32_t)step, (uint32_t)sample,
                            (uint32_t)t)
        .v[0];
}

static oht_array array(const void *data, size_t n, size_t size) {
    return (oht_array){data, n * size};
}

// Rows [first, first + rows) of this rank become one micro-batch.
static void fill_images(oht_synthetic *b, oht_batch *m, int64_t step, int64_t first) {
    const oht_session *s = b->s;
    int64_t n = image_bytes(s), V = s->cfg->model.classes, rank = oht_comm_rank(s->comm),
            size = oht_comm_size(s->comm);
    uint8_t *images = b->images + first * n;
    float *targets = b->targets + first * V;
    memset(targets, 0, (size_t)(m->rows * V) * sizeof(*targets));
    for (int64_t j = 0; j < m->rows; j++) {
        int64_t sample = rank + (first + j) * size;
        b->row_id[first + j] = sample;
        targets[j * V + draw(b, CLASS_SITE, step, sample, 0) % V] = 1.0f;
        for (int64_t i = 0; i < n; i += 4) {
            uint32_t four = draw(b, PIXEL_SITE, step, sample, i);
            memcpy(images + j * n + i, &four, n - i < 4 ? (size_t)(n - i) : 4);
        }
    }
    m->n_labels = m->rows;
    m->sample0 = (uint32_t)(rank + first * size);
    m->stride = (uint32_t)size;
    m->field[OHT_FIELD_IMAGES] = array(images, (size_t)(m->rows * n), 1);
    m->field[OHT_FIELD_TARGETS] = array(targets, (size_t)(m->rows * V), sizeof(*targets));
}

// The same of windows; values uniform in (-sqrt 3, sqrt 3), which has deviation 1.
static void fill_series(oht_synthetic *b, oht_batch *m, int64_t step, int64_t first) {
    const oht_session *s = b->s;
    const int64_t in = input_values(s), out = target_values(s), rank = oht_comm_rank(s->comm),
                  size = oht_comm_size(s->comm);
    float *x = b->series + first * in, *y = b->targets + first * out;
    for (int64_t j = 0; j < m->rows; j++) {
        int64_t sample = rank + (first + j) * size;
        b->row_id[first + j] = sample;
        for (int64_t i = 0; i < in + out; i++) {
            float value = 3.4641016f * (oht_uniform(draw(b, SERIES_SITE, step, sample, i)) - 0.5f);
            if (i < in)
                x[j * in + i] = value;
            else
                y[j * out + i - in] = value;
        }
    }
    m->n_labels = m->rows * out;
    m->sample0 = (uint32_t)(rank + first * size);
    m->stride = (uint32_t)size;
    m->field[OHT_FIELD_SERIES] = array(x, (size_t)(m->rows * in), sizeof(*x));
    m->field[OHT_FIELD_TARGETS] = array(y, (size_t)(m->rows * out), sizeof(*y));
}

// The same of tokens.
static void fill_text(oht_synthetic *b, oht_batch *m, int64_t step, int64_t first) {
    const oht_session *s = b->s;
    bool mlm = s->task == OHT_TASK_MLM;
    int64_t T = s->tokens, rank = oht_comm_rank(s->comm), size = oht_comm_size(s->comm);
    int32_t *tokens = b->tokens + first * T, *labels = b->labels + first * T,
            *positions = b->positions + first * T;
    m->picked = m->n_labels = 0;
    for (int64_t j = 0; j < m->rows; j++) {
        int64_t sample = rank + (first + j) * size;
        b->row_id[first + j] = sample;
        for (int64_t t = 0; t < T; t++)
            tokens[j * T + t] =
                (int32_t)(draw(b, TOKEN_SITE, step, sample, t) % (uint64_t)s->cfg->model.vocab_size);
        for (int64_t t = 0; t < T; t++) {
            if (!mlm) {
                labels[j * T + t] = t + 1 < T ? tokens[j * T + t + 1] : -1;
                m->n_labels += t + 1 < T;
            } else if (oht_uniform(draw(b, PICK_SITE, step, sample, t)) <
                       (float)s->cfg->data.mlm_probability) {
                labels[m->picked] = tokens[j * T + t];
                positions[m->picked++] = (int32_t)(j * T + t);
                m->n_labels++;
            }
        }
    }
    m->sample0 = (uint32_t)(rank + first * size);
    m->stride = (uint32_t)size;
    size_t cells = (size_t)(m->rows * T), labelled = mlm ? (size_t)m->picked : cells;
    m->field[OHT_FIELD_TOKENS] = array(tokens, cells, sizeof(*tokens));
    m->field[OHT_FIELD_LABELS] = array(labels, labelled, sizeof(*labels));
    if (mlm) m->field[OHT_FIELD_POSITIONS] = array(positions, labelled, sizeof(*positions));
}

const oht_step_batch *oht_synthetic_next(oht_synthetic *b, int64_t step) {
    int64_t capacity = oht_graph_rows(b->s->train_graph), first = 0;
    b->batch.index = step;
    b->batch.n_labels = 0;
    for (int64_t i = 0; i < b->batch.n_micro; i++) {
        int64_t left = b->rows - first;
        b->micro[i] = (oht_batch){.rows = left < capacity ? left : capacity};
        if (b->s->task == OHT_TASK_IMAGES)
            fill_images(b, &b->micro[i], step, first);
        else if (b->s->task == OHT_TASK_SERIES)
            fill_series(b, &b->micro[i], step, first);
        else
            fill_text(b, &b->micro[i], step, first);
        first += b->micro[i].rows;
        b->batch.n_labels += b->micro[i].n_labels;
    }
    return &b->batch;
}
