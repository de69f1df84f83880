// One kind of data, as the loader sees it: how many bytes a sample has in which field, and a function that
// makes one sample. The loader (loader.c) owns ring, threads, order, ranks and micro-batches; a source owns
// its file.
#pragma once

#include "oht/data.h"

// One sample of this rank's step: where it comes from and goes to.
typedef struct source_place {
    int64_t step, sample; // place in the global batch of that step
    int64_t global_rows; // of that step
    int64_t first; // place of sample 0 in the order of the whole run (evaluation: in the split)
    int64_t id, epoch; // row of the split; passes over the split before it (validation: 0)
    int64_t local, row; // place among this rank's samples of the step; in its micro-batch
    oht_batch *batch; // its micro-batch
    void *const
        *field; // arrays of this rank's step: sample `local` starts at local * bytes; NULL = no such field
    int worker; // 0 .. threads - 1
} source_place;

typedef struct data_source data_source;
struct data_source {
    int64_t rows[OHT_SPLITS];
    // Bytes one sample takes at most, 0 = no such field; and bytes of one picked position where the field
    // counts those: they are packed from the micro-batch's first sample on.
    size_t bytes[OHT_FIELD_COUNT], picked[OHT_FIELD_COUNT];
    int64_t max_micro_batch; // samples a micro-batch may have
    int64_t labels; // that count in a sample; -1: `sample` adds them to batch->n_labels
    int depth; // steps to read ahead, at most OHT_SOURCE_DEPTH
    // Samples can be made in any order by several threads at once, and the training order is a permutation of
    // the whole split. Else one thread asks for them in order, and training stays in windows of the file
    // (order.c).
    bool any_order;
    oht_status (*sample)(data_source *s, const source_place *p);
    oht_status (*finish)(
        data_source *s,
        const source_place *p); // of each sample, when all of the step are made; NULL = nothing
    void (*close)(data_source *s);
};
enum { OHT_SOURCE_DEPTH = 3 };

// Opens the file and checks that it fits cfg. Local.
OHT_CHECKED oht_status text_source_open(data_source **out, const char *path, const oht_loader_config *cfg);
OHT_CHECKED oht_status image_source_open(data_source **out, const char *path, const oht_loader_config *cfg);
OHT_CHECKED oht_status series_source_open(data_source **out, const char *path, const oht_loader_config *cfg);

// Fills an oht_data_info from a file of one format. Local.
OHT_CHECKED oht_status text_describe(oht_data_info *out, const char *path);
OHT_CHECKED oht_status image_describe(oht_data_info *out, const char *path);
OHT_CHECKED oht_status series_describe(oht_data_info *out, const char *path);
// Windows of each split for the model of a configuration; DATA error where the series does not fit it. Local.
OHT_CHECKED oht_status series_fit(oht_data_info *info, const oht_config *cfg);
