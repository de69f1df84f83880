// Data for training and evaluation: the HDF5 files of `ohtrain prepare`, the order samples are visited in,
// and a loader that prepares step after step ahead of the trainer. Loader, session and trainer do not know
// what a sample is: the kinds of data are src/data/*_source.c.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/dist.h"
#include "oht/status.h"
#include "oht/task.h"

typedef struct oht_text_info {
    int64_t rows[2]; // /train, /validation
    int64_t tokens; // T
    int64_t vocab_size;
    bool mlm, padded; // kind; some rows are shorter than T and end in pad_id
    int32_t pad_id, mask_id, cls_id, sep_id, bos_id, eos_id; // -1 = none
    char tokenizer[32];
    char source_sha256[65];
} oht_text_info;

typedef enum oht_split { OHT_SPLIT_TRAIN = 0, OHT_SPLIT_VALIDATION = 1, OHT_SPLIT_TEST = 2, OHT_SPLITS } oht_split;
const char *oht_split_name(oht_split split); // "training", "validation", "test"

typedef struct oht_text oht_text;
// Opens and checks a text file. DATA errors name file, dataset, found, expected, remedy. Local.
OHT_CHECKED oht_status oht_text_open(oht_text **out, const char *path);
void oht_text_close(oht_text *text);
const oht_text_info *oht_text_info_of(const oht_text *text);
// Rows [first, first + n) of a split as i32; every id is checked against vocab_size. Local, one thread at a
// time.
OHT_CHECKED oht_status oht_text_read(oht_text *text, oht_split split, int64_t first, int64_t n, int32_t *out);

// Row visited at place `position` (counted from 0 over the whole run) of the training order: epoch = position
// / rows; inside an epoch blocks of 256 rows come in random order, and rows are permuted inside windows of
// several blocks, so that reading stays local. A bijection of [0, rows) for every epoch; a pure function of
// its arguments. Local.
int64_t oht_order(uint64_t seed, int64_t rows, int64_t position);
// The same without windows, for data whose neighbours are alike (images lie class by class) and that is read
// one by one.
int64_t oht_order_whole(uint64_t seed, int64_t rows, int64_t position);

// What a data file offers, whatever its kind.
typedef struct oht_data_info {
    oht_task task; // what it is made for
    // Samples of each split; 0 = the file has no such split. Time series: how many windows there are depends on the
    // model, so a description of the file has 0 and oht_data_fit counts them.
    int64_t rows[OHT_SPLITS];
    int64_t series, steps[OHT_SPLITS]; // time series: columns, rows in time of each split
    int64_t tokens; // text: T
    int64_t vocab_size; // text
    bool padded; // text: some rows are shorter than T
    int64_t classes; // images
    char origin[32]; // text: the tokenizer
    char source_sha256[65];
} oht_data_info;
// Opens a data file of any kind, by its attribute `format`, checks it, and closes it. DATA errors name file,
// dataset, found, expected, remedy. Local.
OHT_CHECKED oht_status oht_data_describe(oht_data_info *out, const char *path);
// Counts the windows of time series for model.input and model.horizon; other kinds stay as they are. DATA error where the
// series does not fit the model, or a split has no window. Local.
OHT_CHECKED oht_status oht_data_fit(oht_data_info *info, const oht_config *cfg);
// "text for causal language modelling", and the type of model that learns from it ("opt").
const char *oht_task_data(oht_task task);
const char *oht_task_model(oht_task task);
const char *oht_task_prepare(oht_task task); // word of `ohtrain prepare` that makes its files ("text")

// One array of a micro-batch; NULL: there is none.
typedef struct oht_array {
    const void *data;
    size_t bytes;
} oht_array;

// One micro-batch of one rank. Sample j of the micro-batch is sample sample0 + j * stride of the global
// batch.
typedef struct oht_batch {
    int64_t rows, picked; // samples, masked positions
    uint32_t sample0, stride;
    oht_array field[OHT_FIELD_COUNT];
    int64_t n_labels; // labels that count
} oht_batch;

static inline const int32_t *oht_batch_i32(const oht_batch *b, oht_field field) {
    return (const int32_t *)b->field[field].data;
}
static inline const uint8_t *oht_batch_u8(const oht_batch *b, oht_field field) {
    return (const uint8_t *)b->field[field].data;
}
static inline const float *oht_batch_f32(const oht_batch *b, oht_field field) {
    return (const float *)b->field[field].data;
}

// All micro-batches of one rank for one optimizer step, or one global evaluation batch.
typedef struct oht_step_batch {
    int64_t index; // step, or number of the evaluation batch
    int64_t n_micro; // same on all ranks
    const oht_batch *micro;
    int64_t n_labels; // of this rank
    int64_t rows; // of this rank
    int64_t global_rows; // of all ranks (the last batch of an evaluation or of an epoch may be short)
    const int64_t *row_id; // dataset row of each local sample, for provenance
} oht_step_batch;

// A number for the samples of this rank's step; the sum over ranks (modulo 2^64) does not depend on their number, on
// micro-batches or threads. Local.
uint64_t oht_step_hash(const oht_step_batch *step);

typedef struct oht_loader oht_loader;

typedef struct oht_loader_config {
    oht_split split;
    oht_task task;
    uint64_t seed; // order, and everything random in training
    int64_t global_batch, micro_batch;
    int64_t first,
        count; // steps [first, first + count); evaluation: batches in file order, 0 = up to the file's end
    // Training: batches end where the epoch ends. 0: they run on into the next one; else the steps of an epoch
    // (oht_epoch_steps), the last of which may be short.
    int64_t epoch_steps;
    int rank, size;
    int threads; // that prepare samples side by side, where the kind of data can; 0 = 1
    double mlm_probability; // MLM
    uint64_t mask_seed; // MLM: masks in evaluation
    bool as_evaluation; // images: training samples in training order, but cropped and labelled as in evaluation
    const oht_config *config; // images: model.image_size, model.classes and the data section; borrowed
} oht_loader_config;

// Steps of an epoch of `rows` samples: the last one has what is left, or is dropped.
int64_t oht_epoch_steps(int64_t rows, int64_t global_batch, bool drop_last);

// Opens and checks the file and starts prefetching. Training order for OHT_SPLIT_TRAIN, file order for the
// others. What comes out depends neither on threads nor on ranks. MLM masks (spec transformers 3.1) are a
// pure function of (seed, step, sample of the global batch, token), in evaluation of (mask_seed, row, token).
// DATA error if the file is of another kind or lacks the split. Local.
OHT_CHECKED oht_status oht_loader_create(oht_loader **out, const char *path, const oht_loader_config *cfg);
// Next step's data, valid until the next call; DATA or IO error of the threads. *out = NULL after the last.
// Local.
OHT_CHECKED oht_status oht_loader_next(oht_loader *loader, const oht_step_batch **out);
double oht_loader_wait_s(const oht_loader *loader); // seconds the trainer waited for data so far
void oht_loader_destroy(oht_loader *loader);

// ---- prepare ----
typedef struct oht_prepare_text {
    const char *const *train; // input files in order
    int n_train;
    const char *const *validation;
    int n_validation;
    const char *tokenizer; // folder with the vocabulary files
    bool wordpiece; // else BPE
    const char *json_field; // NULL: plain text, one row a line; else JSON lines with this field
    int64_t tokens; // block size T
    int64_t
        rows_per_group; // 1000: ids are concatenated per group, cut into blocks, remainder dropped (spec 3.1)
    bool keep_remainder; // keep the remainder of each group as a padded block; an MLM group shorter than T
                         // always is
    const char *out;
} oht_prepare_text;

// Raw text -> HDF5. Streams: memory does not grow with the corpus. Ranks share the groups; rank 0 writes; the
// bytes do not depend on the number of ranks. Collective.
OHT_CHECKED oht_status oht_prepare_text_run(oht_comm *comm, const oht_prepare_text *opt);
