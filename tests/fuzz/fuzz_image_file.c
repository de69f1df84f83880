// libFuzzer target: any bytes as an image file, opened, and every image read and decoded. HDF5 reads files by
// name, so the bytes go to a file in memory (memfd). Seeds: files of `ohtrain prepare images`. HDF5's own
// leaks on damaged files are not ours to find: run with -detect_leaks=0.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "data/images/images.h"

enum { SIZE = 16, MOST = 50 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void use(oht_images *images, oht_split split, oht_image_scratch *scratch) {
    oht_image_recipe recipe = oht_image_recipe_evaluation(SIZE);
    const oht_images_info *info = oht_images_info_of(images);
    for (int64_t i = 0; i < info->images[split] && i < MOST; i++) {
        uint8_t out[SIZE * SIZE * 3];
        int32_t label = oht_images_label(images, split, i);
        if (label < 0 || label >= info->classes ||
            oht_images_bytes(images, split, i) > info->max_bytes[split])
            abort();
        oht_status status = oht_image_sample(images, split, i, &recipe, 0, 0, scratch, out);
        if (status != OHT_OK && status != OHT_DATA) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static oht_image_scratch *scratch;
    char path[64];
    oht_images *images;
    if (!scratch && oht_image_scratch_create(&scratch) != OHT_OK) abort();
    int fd = memfd_create("image-file", 0);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n) abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (oht_images_open(&images, path) == OHT_OK) {
        use(images, OHT_SPLIT_TRAIN, scratch);
        use(images, OHT_SPLIT_VALIDATION, scratch);
        oht_images_close(images);
    }
    close(fd);
    return 0;
}
