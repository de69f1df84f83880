// libFuzzer target: any bytes through the decoder and both transforms. Crashes, leaks, hangs and undefined
// behaviour are findings; so is a sample that differs between two runs.
//   cmake -S . -B build/fuzz -DCMAKE_C_COMPILER=clang -DOHT_FUZZ=ON && cmake --build build/fuzz --target
//   fuzz_decode build/fuzz/tests/fuzz_decode -max_total_time=300 -rss_limit_mb=2048 CORPUS
//   tests/golden/images
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/images/images.h"

enum { SIZE = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static oht_image_scratch *scratch;
    int width, height;
    if (!scratch && oht_image_scratch_create(&scratch) != OHT_OK) abort();
    if (oht_image_dimensions(bytes, n, &width, &height) != OHT_OK) return 0;
    if ((int64_t)width * height > 1 << 18) return 0; // large ones only cost time
    uint8_t out[2][SIZE * SIZE * 3];
    oht_image_recipe train = oht_image_recipe_train(SIZE), evaluation = oht_image_recipe_evaluation(SIZE);
    oht_status status = oht_image_transform(bytes, n, &train, 1, 2, 3, scratch, out[0]);
    if (status != OHT_OK && status != OHT_DATA) abort();
    if (oht_image_transform(bytes, n, &evaluation, 1, 2, 3, scratch, out[1]) != status) abort();
    if (oht_image_transform(bytes, n, &train, 1, 2, 3, scratch, out[1]) != status) abort();
    if (status == OHT_OK && memcmp(out[0], out[1], sizeof(out[0])) != 0) abort();
    return 0;
}
