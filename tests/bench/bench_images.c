// Images per second of CPU time on one core: decode, crop, resize, augment (training) and resize, crop
// (evaluation), as one loader thread does it.  bench_images [SIZE [SECONDS]] FILE...   (JPEG and PNG files;
// peer: tests/bench/peer_images.py)
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "data/images/images.h"

typedef struct file {
    uint8_t *bytes;
    size_t n;
} file;

typedef enum stage { DECODE, RESIZE, TRAIN_PLAIN, TRAIN, EVALUATION, STAGES } stage;
static const char *const name[STAGES] = {"decode", "decode, resize to 1/2", "decode, random crop, flip",
                                         "training (all)", "evaluation (all)"};

static file read_file(const char *path) {
    file f = {0};
    FILE *in = fopen(path, "rb");
    if (!in) return f;
    f.bytes = malloc(OHT_IMAGE_MOST_BYTES);
    f.n = fread(f.bytes, 1, OHT_IMAGE_MOST_BYTES, in);
    f.bytes = realloc(f.bytes, f.n + 1);
    fclose(in);
    return f;
}

// CPU time of this process: a busy machine does not spoil it.
static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static oht_status one(stage what, const file *f, int size, int64_t index, oht_image_scratch *scratch,
                      uint8_t *out) {
    static oht_buffer rgb, line, half;
    static oht_resize_scratch resize;
    if (what == DECODE || what == RESIZE) {
        oht_picture p;
        OHT_TRY(oht_image_decode(f->bytes, f->n, &rgb, &line, &p));
        if (what == DECODE) return OHT_OK;
        oht_resize to = {
            .width = (p.width + 1) / 2, .height = (p.height + 1) / 2, .filter = OHT_FILTER_BICUBIC};
        to.out_width = to.width;
        to.out_height = to.height;
        OHT_TRY(oht_buffer_need(&half, (size_t)to.width * (size_t)to.height * 3));
        return oht_image_resize(&p, &to, &resize, half.data);
    }
    oht_image_recipe recipe =
        what == EVALUATION ? oht_image_recipe_evaluation(size) : oht_image_recipe_train(size);
    if (what == TRAIN_PLAIN) recipe.augment_ops = 0;
    return oht_image_transform(f->bytes, f->n, &recipe, 1, index / 1000, index, scratch, out);
}

int main(int argc, char **argv) {
    int first = 1, size = 224, n = 0;
    double seconds = 3.0;
    if (first < argc && atoi(argv[first]) > 0) size = atoi(argv[first++]);
    if (first < argc && atof(argv[first]) > 0) seconds = atof(argv[first++]);
    file *files = calloc((size_t)argc, sizeof(*files));
    uint8_t *out = malloc((size_t)size * (size_t)size * 3);
    oht_image_scratch *scratch;
    if (!files || !out || oht_image_scratch_create(&scratch) != OHT_OK) return 1;
    for (int i = first; i < argc; i++) {
        files[n] = read_file(argv[i]);
        if (files[n].n > 0 && one(DECODE, &files[n], size, 0, scratch, out) == OHT_OK) n++;
    }
    if (n == 0) {
        fprintf(stderr, "usage: bench_images [SIZE [SECONDS]] FILE...\n");
        return 2;
    }
    for (int what = 0; what < STAGES; what++) {
        int64_t done = 0;
        double start = cpu_s(), now;
        do {
            for (int i = 0; i < n; i++, done++)
                if (one((stage)what, &files[i], size, done, scratch, out) != OHT_OK) return 1;
            now = cpu_s();
        } while (now - start < seconds);
        printf("%-28s %8.1f images/s\n", name[what], (double)done / (now - start));
    }
    oht_image_scratch_destroy(scratch);
    return 0;
}
