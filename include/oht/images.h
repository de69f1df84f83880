// Image data: the HDF5 file of `ohtrain prepare images`, one sample's way from encoded bytes to uint8 pixels
// (decode, crop, resize, augment: spec transformers 3.2), and mixing of a batch (mixup, cutmix, soft targets,
// normalisation).
//
// Pixels are uint8, rows top to bottom, R G B interleaved ("HWC"). Everything random is a pure function of
// what the comments name, so order, threads and ranks change nothing.
//
//   loader thread:  oht_image_sample      row of the file -> (size,size,3) uint8, with its own
//   oht_image_scratch then a batch:   oht_mix_draw          what happens to this group of samples
//                   oht_mix_pair          sample i with its partner B-1-i, in place
//                   oht_mix_target        soft target of one sample
//                   oht_image_normalise   (size,size,3) uint8 -> (3,size,size) float
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/data.h"
#include "oht/dist.h"
#include "oht/status.h"

// ---- the file ----
typedef struct oht_images_info {
    int64_t images[2]; // /train, /validation; 0 = not in the file
    int64_t max_bytes[2]; // of one encoded image
    int64_t classes;
    char source_sha256[65];
} oht_images_info;

typedef struct oht_images oht_images;
// Opens and checks an image file: format, offsets that rise and stay inside the bytes, labels below the
// number of classes. Keeps offsets and labels in memory (12 bytes an image). DATA errors name file, dataset,
// found, expected, remedy. Local.
OHT_CHECKED oht_status oht_images_open(oht_images **out, const char *path);
void oht_images_close(oht_images *images);
const oht_images_info *oht_images_info_of(const oht_images *images);
const char *oht_images_class(const oht_images *images, int64_t label);
int32_t oht_images_label(const oht_images *images, oht_split split, int64_t index);
int64_t oht_images_bytes(const oht_images *images, oht_split split, int64_t index); // encoded size
// The encoded bytes of one image into out (room for oht_images_bytes). Local; any number of threads at a
// time, each of which has called oht_h5_silence once.
OHT_CHECKED oht_status oht_images_read(oht_images *images, oht_split split, int64_t index, uint8_t *out);

// ---- one sample ----
// Memory one thread works in; it grows to what the largest image needs and then stays.
typedef struct oht_image_scratch oht_image_scratch;
OHT_CHECKED oht_status oht_image_scratch_create(oht_image_scratch **out);
void oht_image_scratch_destroy(oht_image_scratch *scratch);

// What is done to an image. Start from oht_image_recipe_train or _evaluation (spec 3.2) and change what
// differs.
typedef struct oht_image_recipe {
    int size; // side of the result
    bool train; // random crop, flip, RandAugment; else short side to floor(size / crop_share), centre crop
    double area[2]; // train: share of the image's area that the crop takes, uniform
    double ratio[2]; //        width / height of the crop, log-uniform
    double flip; //        probability of a horizontal flip
    int augment_ops; //        RandAugment operations an image, 0 = off
    double augment_probability, magnitude, magnitude_std; // of one operation; magnitude in [0, 10]
    double crop_share; // evaluation
} oht_image_recipe;
oht_image_recipe oht_image_recipe_train(int size); // rand-m9-mstd0.5
oht_image_recipe oht_image_recipe_evaluation(int size); // bicubic, 0.9

// Image `index` of a split, decoded and transformed into out (size,size,3) uint8: a pure function of the
// file's bytes, recipe, seed, epoch and index. DATA error, naming the image, if it cannot be decoded. Local;
// any number of threads at a time, each with its own scratch; allocates nothing once the scratch has grown.
OHT_CHECKED oht_status oht_image_sample(oht_images *images, oht_split split, int64_t index,
                                        const oht_image_recipe *recipe, uint64_t seed, int64_t epoch,
                                        oht_image_scratch *scratch, uint8_t *out);
// The same from encoded bytes; index only feeds the random numbers.
OHT_CHECKED oht_status oht_image_transform(const uint8_t *bytes, size_t n, const oht_image_recipe *recipe,
                                           uint64_t seed, int64_t epoch, int64_t index,
                                           oht_image_scratch *scratch, uint8_t *out);

// ---- a batch ----
typedef struct oht_mix_recipe {
    double mixup_alpha, cutmix_alpha; // lambda ~ Beta(alpha, alpha); 0 = never; spec: 0.2 both
    double cutmix_probability; // where both are on; spec: 0.5
    double smoothing; // of the targets; spec: 0.1
} oht_mix_recipe;

// One draw for all samples of a group (a micro-batch of the reference).
typedef struct oht_mix {
    bool cutmix;
    float lambda; // weight of the sample's own label; 1 = nothing is mixed
    int left, top, right, bottom; // cutmix: columns [left, right), rows [top, bottom) come from the partner
} oht_mix;
// A pure function of its arguments. step: optimizer step; group: number of the mixing group in the global
// batch.
oht_mix oht_mix_draw(const oht_mix_recipe *recipe, int size, uint64_t seed, int64_t step, int64_t group);
// Mixes sample a with its partner b and b with a, in place; a == b (the middle of an odd batch) stays.
// (size,size,3) each.
void oht_mix_pair(const oht_mix *mix, uint8_t *a, uint8_t *b, int size);
// target (classes): lambda t(label) + (1 - lambda) t(partner), t = smoothing / classes, 1 - smoothing more at
// the label.
void oht_mix_target(const oht_mix *mix, int32_t label, int32_t partner, int64_t classes, double smoothing,
                    float *target);
// (size,size,3) uint8 -> (3,size,size) float, (v / 255 - 0.5) / 0.5.
void oht_image_normalise(const uint8_t *pixels, int size, float *out);

// ---- prepare ----
typedef struct oht_prepare_images {
    const char *train, *validation; // folders of class folders; one may be NULL
    bool strict; // a file that is no readable image is an error, else it is listed and skipped
    int64_t resize; // short side after shrinking; 0 = bytes stay as they are
    const char *out;
} oht_prepare_images;

// Class folders -> HDF5: /train/bytes, /train/offsets, /train/labels, /classes (folder names, sorted),
// likewise /validation. Every image is decoded once, so that training meets no bad one. Ranks share the
// files; rank 0 writes; the bytes do not depend on the number of ranks, memory not on the number of images.
// Collective.
OHT_CHECKED oht_status oht_prepare_images_run(oht_comm *comm, const oht_prepare_images *opt);
