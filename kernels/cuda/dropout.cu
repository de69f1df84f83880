// Dropout: y = x + Drop(f) and its backward; a thread draws one Philox block and does the eight elements that take their bits
// from it. Backward draws the same bits again, nothing is stored.
#include "cuda/draw.h"

enum { DROP_THREADS = 256 };

// y = (x or 0) + f mask scale over B samples of n elements. x may be y. VECTORS: rows of eight can be read 16 bytes at a time.
template <class T, bool VECTORS>
__global__ void __launch_bounds__(DROP_THREADS)
    dropout_kernel(T *y, const T *x, const T *__restrict__ f, int64_t B, int64_t n, draws d) {
    const int64_t blocks = (n + 7) / 8;
    for (int64_t i = (int64_t)blockIdx.x * DROP_THREADS + threadIdx.x; i < B * blocks; i += (int64_t)gridDim.x * DROP_THREADS) {
        const int64_t b = i / blocks, e = (i - b * blocks) * 8, at = b * n + e;
        const uint4 w = draw_block(d, (uint32_t)b, (uint32_t)(e / 8));
        const uint32_t words[4] = {w.x, w.y, w.z, w.w};
        if (VECTORS) {
            const int N = pack<T>::N;
#pragma unroll
            for (int k = 0; k < 8; k += N) {
                pack<T> fv = *(const pack<T> *)(f + at + k), xv = fv;
                if (x) xv = *(const pack<T> *)(x + at + k);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    uint16_t bits = (uint16_t)((k + j) & 1 ? words[(k + j) / 2] >> 16 : words[(k + j) / 2]);
                    float v = bits < d.threshold ? 0.0f : to_float(fv.v[j]) * d.scale;
                    fv.v[j] = from_float<T>(x ? to_float(xv.v[j]) + v : v);
                }
                *(pack<T> *)(y + at + k) = fv;
            }
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) {
                if (e + k >= n) break;
                uint16_t bits = (uint16_t)(k & 1 ? words[k / 2] >> 16 : words[k / 2]);
                float v = bits < d.threshold ? 0.0f : load(f + at + k) * d.scale;
                store(y + at + k, x ? load(x + at + k) + v : v);
            }
        }
    }
}

template <class T> static void apply(cuda_context *ctx, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop) {
    int64_t B = f.dim[0], n = B > 0 ? oht_tensor_count(f) / B : 0;
    draws d = make_draws(drop);
    dim3 grid(cuda_grid(ctx, B * ((n + 7) / 8), DROP_THREADS));
    if (n % 8 == 0 && aligned16(y.data) && aligned16(x.data) && aligned16(f.data))
        CUDA_LAUNCH(ctx, (dropout_kernel<T, true>), grid, dim3(DROP_THREADS), 0, cuda_data<T>(y), cuda_data<T>(x), cuda_data<T>(f), B, n,
                    d);
    else
        CUDA_LAUNCH(ctx, (dropout_kernel<T, false>), grid, dim3(DROP_THREADS), 0, cuda_data<T>(y), cuda_data<T>(x), cuda_data<T>(f), B,
                    n, d);
}

static void dropout_add_cuda(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor f, const oht_draw *drop) {
    CUDA_BY_TYPE(cuda_of(be), f.dtype, apply<T>(cuda_of(be), y, x, f, drop));
}

static void dropout_bwd_cuda(oht_backend *be, oht_tensor df, oht_tensor dy, const oht_draw *drop, bool add) {
    CUDA_BY_TYPE(cuda_of(be), dy.dtype, apply<T>(cuda_of(be), df, add ? df : OHT_NO_TENSOR, dy, drop));
}

void cuda_dropout_entries(oht_backend *be) {
    be->dropout_add = dropout_add_cuda;
    be->dropout_bwd = dropout_bwd_cuda;
}
