// Encoded images as a data source: decoded, cropped and augmented by as many threads as the loader has, then
// mixed in pairs (spec transformers 3.2). Training makes soft targets, evaluation labels.
//
// Mixing: sample s of the global batch of G has the partner s + G/2 (or s - G/2; the last of an odd batch has
// none), and pairs s, s + G/2 with the same s / (data.mix_batch / 2) share one lambda. The order is random,
// so this is the published mirror pairing under another numbering, and with P ranks the partner is on the
// same rank whenever P divides G/2. Elsewhere a rank also makes the partner for itself: more work, the same
// pixels.
#include <string.h>

#include "data/images/images.h"
#include "data/source.h"
#include "oht/images.h"
#include "oht/memory.h"

enum { DEPTH = 2 }; // steps of many images are large

typedef struct image_worker {
    oht_image_scratch *scratch;
    uint8_t *partner; // pixels of one that is not on this rank
} image_worker;

typedef struct image_source {
    data_source pub; // first member: a data_source is an image_source
    oht_loader_config cfg;
    oht_images *images;
    bool augments; // crops, colours, mixtures and soft targets of training
    int64_t classes; // of the model
    int size;
    oht_image_recipe recipe;
    oht_mix_recipe mixing;
    int64_t mix_pairs;
    image_worker *worker;
    int n_workers;
} image_source;

// The partner of a sample, and how the two are mixed.
typedef struct pairing {
    oht_mix mix;
    int64_t sample, id, epoch, local; // local: place among this rank's samples, -1 = on another rank
} pairing;

static pairing pair_of(const image_source *s, const source_place *p) {
    int64_t half = p->global_rows / 2, n = s->pub.rows[OHT_SPLIT_TRAIN], P = s->cfg.size;
    pairing pair = {.sample = p->sample};
    if (p->sample < 2 * half) pair.sample += p->sample < half ? half : -half;
    int64_t place = p->first + pair.sample;
    pair.id = oht_order_whole(s->cfg.seed, n, place);
    pair.epoch = place / n;
    pair.local = pair.sample % P == s->cfg.rank ? pair.sample / P : -1;
    int64_t group = half > 0 ? p->sample % half / s->mix_pairs : 0;
    pair.mix = oht_mix_draw(&s->mixing, s->size, s->cfg.seed, p->step, group);
    return pair;
}

static uint8_t *pixels_of(const image_source *s, const source_place *p, int64_t local) {
    return (uint8_t *)p->field[OHT_FIELD_IMAGES] + (size_t)local * s->pub.bytes[OHT_FIELD_IMAGES];
}

static bool is_mixed(const pairing *pair, const source_place *p) {
    return pair->sample != p->sample && pair->mix.lambda != 1.0f;
}

static oht_status sample(data_source *source, const source_place *p) {
    image_source *s = (image_source *)source;
    oht_split split = s->cfg.split;
    image_worker *w = &s->worker[p->worker];
    uint8_t *pixels = pixels_of(s, p, p->local);
    int32_t label = oht_images_label(s->images, split, p->id);
    OHT_TRY(oht_image_sample(s->images, split, p->id, &s->recipe, s->cfg.seed, p->epoch, w->scratch, pixels));
    if (!s->augments) {
        ((int32_t *)p->field[OHT_FIELD_LABELS])[p->local] = label;
        return OHT_OK;
    }
    pairing pair = pair_of(s, p);
    oht_mix_target(&pair.mix, label, oht_images_label(s->images, split, pair.id), s->classes,
                   s->mixing.smoothing, (float *)p->field[OHT_FIELD_TARGETS] + p->local * s->classes);
    if (!is_mixed(&pair, p) || pair.local >= 0) return OHT_OK;
    OHT_TRY(oht_image_sample(s->images, split, pair.id, &s->recipe, s->cfg.seed, pair.epoch, w->scratch,
                             w->partner));
    oht_mix_pair(&pair.mix, pixels, w->partner, s->size);
    return OHT_OK;
}

// The first of a pair mixes both.
static oht_status finish(data_source *source, const source_place *p) {
    image_source *s = (image_source *)source;
    pairing pair = pair_of(s, p);
    if (is_mixed(&pair, p) && pair.local >= 0 && p->sample < pair.sample)
        oht_mix_pair(&pair.mix, pixels_of(s, p, p->local), pixels_of(s, p, pair.local), s->size);
    return OHT_OK;
}

static void close_source(data_source *source) {
    image_source *s = (image_source *)source;
    for (int i = 0; i < s->n_workers; i++) {
        oht_image_scratch_destroy(s->worker[i].scratch);
        oht_free(s->worker[i].partner);
    }
    oht_free(s->worker);
    oht_images_close(s->images);
    oht_free(s);
}

static void choose_recipe(image_source *s) {
    const oht_data_config *d = &s->cfg.config->data;
    if (!s->augments) {
        s->recipe = oht_image_recipe_evaluation(s->size);
        return;
    }
    s->recipe = oht_image_recipe_train(s->size);
    s->recipe.area[0] = d->crop_area;
    s->recipe.flip = d->flip;
    s->recipe.augment_ops = (int)d->augment_ops;
    s->recipe.magnitude = d->augment_magnitude;
    s->mixing = (oht_mix_recipe){d->mixup, d->cutmix, d->cutmix_probability, d->smoothing};
    s->mix_pairs = d->mix_batch > 1 ? d->mix_batch / 2 : 1;
}

static oht_status make_workers(image_source *s) {
    int threads = s->cfg.threads > 1 ? s->cfg.threads : 1;
    OHT_TRY(OHT_ALLOC(&s->worker, (size_t)threads, "image workers"));
    for (; s->n_workers < threads; s->n_workers++) {
        image_worker *w = &s->worker[s->n_workers];
        OHT_TRY(oht_image_scratch_create(&w->scratch));
        oht_status status = OHT_ALLOC(&w->partner, s->pub.bytes[OHT_FIELD_IMAGES], "image of another rank");
        if (status != OHT_OK) {
            oht_image_scratch_destroy(w->scratch);
            return oht_error_frame(status, __FILE__, __LINE__);
        }
    }
    return OHT_OK;
}

static oht_status open_images(image_source *s, const char *path) {
    OHT_TRY(oht_images_open(&s->images, path));
    const oht_images_info *info = oht_images_info_of(s->images);
    const oht_model_config *m = &s->cfg.config->model;
    s->size = (int)m->image_size;
    s->classes = m->classes;
    if (info->classes > s->classes)
        OHT_FAIL(OHT_DATA, "%s: has %lld classes, but model.classes = %lld\nfix: model.classes=%lld", path,
                 (long long)info->classes, (long long)s->classes, (long long)info->classes);
    if (s->cfg.split == OHT_SPLIT_TEST || info->images[s->cfg.split] == 0)
        OHT_FAIL(OHT_DATA, "%s: has no %s images\nfix: give `ohtrain prepare images` a folder of them", path,
                 oht_split_name(s->cfg.split));
    s->augments = s->cfg.split == OHT_SPLIT_TRAIN && !s->cfg.as_evaluation;
    choose_recipe(s);
    data_source *pub = &s->pub;
    memcpy(pub->rows, info->images, sizeof(info->images));
    pub->bytes[OHT_FIELD_IMAGES] = 3 * (size_t)s->size * (size_t)s->size;
    if (s->augments)
        pub->bytes[OHT_FIELD_TARGETS] = (size_t)s->classes * sizeof(float);
    else
        pub->bytes[OHT_FIELD_LABELS] = sizeof(int32_t);
    if (s->augments && (s->mixing.mixup_alpha > 0 || s->mixing.cutmix_alpha > 0)) pub->finish = finish;
    return make_workers(s);
}

oht_status image_source_open(data_source **out, const char *path, const oht_loader_config *cfg) {
    *out = NULL;
    image_source *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "image source"));
    s->cfg = *cfg;
    s->pub = (data_source){.labels = 1,
                           .depth = DEPTH,
                           .any_order = true,
                           .max_micro_batch = INT32_MAX,
                           .sample = sample,
                           .close = close_source};
    oht_status status = open_images(s, path);
    if (status != OHT_OK) {
        close_source(&s->pub);
        return oht_error_frame(status, __FILE__, __LINE__);
    }
    *out = &s->pub;
    return OHT_OK;
}

oht_status image_describe(oht_data_info *out, const char *path) {
    oht_images *images;
    OHT_TRY(oht_images_open(&images, path));
    const oht_images_info *info = oht_images_info_of(images);
    *out = (oht_data_info){.task = OHT_TASK_IMAGES,
                           .rows = {info->images[0], info->images[1]},
                           .classes = info->classes,
                           .origin = "images"};
    memcpy(out->source_sha256, info->source_sha256, sizeof(out->source_sha256));
    oht_images_close(images);
    return OHT_OK;
}
