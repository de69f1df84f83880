// A tensor is a view: pointer, type, shape; contiguous, row-major; owns nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

// BF16, F16: storage only, of activations and of the working copy of the parameters; arithmetic accumulates in fp32. Only
// backends that say so (backend.h, has_type) know them.
typedef enum oht_dtype { OHT_F32, OHT_I32, OHT_U8, OHT_BF16, OHT_F16 } oht_dtype;

typedef struct oht_tensor {
    void *data; // device memory of the backend that made it; NULL = absent
    oht_dtype dtype;
    int rank;
    int64_t dim[4];
} oht_tensor;

static inline size_t oht_dtype_size(oht_dtype t) {
    return t == OHT_U8 ? 1 : t == OHT_BF16 || t == OHT_F16 ? 2 : 4;
}
static inline int64_t oht_tensor_count(oht_tensor t) {
    int64_t n = 1;
    for (int i = 0; i < t.rank; i++) n *= t.dim[i];
    return n;
}
// Product of all dimensions but the last: the number of rows of length C.
static inline int64_t oht_tensor_rows(oht_tensor t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t.rank; i++) n *= t.dim[i];
    return n;
}
static inline float *oht_f32(oht_tensor t) {
    return (float *)t.data;
}
static inline int32_t *oht_i32(oht_tensor t) {
    return (int32_t *)t.data;
}
static inline uint8_t *oht_u8(oht_tensor t) {
    return (uint8_t *)t.data;
}
static const oht_tensor OHT_NO_TENSOR = {0};
