// Tables and picked rows: token embedding, position and type rows, gather of masked positions, y += x. Where several rows
// add into one, a block owns the rows it adds into and takes what belongs to them in order of n: no atomics, the same sum
// every time.
#include "cuda/cuda.h"

enum {
    THREADS = 256,
    OWN = 8, // rows of a table that one block adds into
};

// ---- picking rows ----
template <class T> __global__ void pick_rows(T *y, const T *x, const int32_t *index, int64_t N, int64_t C) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < N * C;
         i += (int64_t)gridDim.x * blockDim.x)
        y[i] = x[(int64_t)index[i / C] * C + i % C];
}

template <class T> static void pick(cuda_context *ctx, oht_tensor y, oht_tensor x, oht_tensor index) {
    int64_t N = oht_tensor_count(index), C = x.dim[x.rank - 1];
    CUDA_LAUNCH(ctx, pick_rows<T>, cuda_grid(ctx, N * C, THREADS), THREADS, 0, cuda_data<T>(y),
                (const T *)cuda_data<T>(x), (const int32_t *)oht_i32(index), N, C);
}

static void gather_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor index) {
    CUDA_BY_TYPE(cuda_of(be), y.dtype, pick<T>(cuda_of(be), y, x, index));
}
static void embedding_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor ids, oht_tensor table) {
    CUDA_BY_TYPE(cuda_of(be), y.dtype, pick<T>(cuda_of(be), y, table, ids));
}

// ---- adding into picked rows ----
// Block b owns rows OWN b .. of d (V, C). It goes through the ids in pieces of THREADS, keeps those of its rows in order,
// and each thread adds up its columns. S: type of the sums' target, T: of what is added.
template <class S, class T>
__global__ void __launch_bounds__(THREADS) add_picked(S *d, const T *dy, const int32_t *ids, int64_t N,
                                                      int64_t V, int64_t C, int64_t skip, bool add) {
    OHT_SHARED(int, place, THREADS); // which of the piece
    OHT_SHARED(int, row, THREADS); // and whose, 0 .. OWN - 1
    OHT_SHARED(int, before, THREADS / WARP + 1);
    int64_t first = (int64_t)blockIdx.x * OWN, rows = min((int64_t)OWN, V - first);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (!add)
        for (int64_t i = threadIdx.x; i < rows * C; i += THREADS) d[first * C + i] = from_float<S>(0.0f);
    for (int64_t n0 = 0; n0 < N; n0 += THREADS) {
        int64_t id = n0 + threadIdx.x < N ? ids[n0 + threadIdx.x] : -1;
        bool mine = id >= first && id < first + rows && id != skip;
        unsigned votes = __ballot_sync(0xffffffffu, mine);
        __syncthreads(); // of the piece before; and of the zeros
        if (lane == 0) before[warp + 1] = __popc(votes);
        __syncthreads();
        int at = 0, count = 0;
        for (int w = 0; w < THREADS / WARP; w++) {
            if (w < warp) at += before[w + 1];
            count += before[w + 1];
        }
        if (mine) {
            at += __popc(votes & ((1u << lane) - 1u));
            place[at] = threadIdx.x;
            row[at] = (int)(id - first);
        }
        __syncthreads();
        if (count == 0) continue;
        for (int64_t j = threadIdx.x; j < C; j += THREADS)
            for (int r = 0; r < rows; r++) {
                float sum = 0.0f;
                bool any = false;
                for (int k = 0; k < count; k++) {
                    if (row[k] != r) continue;
                    sum += to_float(dy[(n0 + place[k]) * C + j]);
                    any = true;
                }
                S *to = d + (first + r) * C + j;
                if (any) *to = from_float<S>(to_float(*to) + sum);
            }
    }
}

template <class S, class T>
static void add_into(cuda_context *ctx, oht_tensor d, oht_tensor dy, oht_tensor ids, int64_t skip, bool add) {
    int64_t V = oht_tensor_rows(d), C = d.dim[d.rank - 1];
    CUDA_LAUNCH(ctx, (add_picked<S, T>), cuda_blocks(V, OWN), THREADS, 0, cuda_data<S>(d),
                (const T *)cuda_data<T>(dy), (const int32_t *)oht_i32(ids), oht_tensor_count(ids), V, C, skip,
                add);
}

static void embedding_bwd_cuda(oht_backend *be, oht_tensor dtable, oht_tensor dy, oht_tensor ids,
                               int64_t padding_id, bool add) {
    CUDA_BY_TYPE(cuda_of(be), dy.dtype, (add_into<float, T>(cuda_of(be), dtable, dy, ids, padding_id, add)));
}
static void gather_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dy, oht_tensor index, bool add) {
    CUDA_BY_TYPE(cuda_of(be), dy.dtype, (add_into<T, T>(cuda_of(be), dx, dy, index, -1, add)));
}

// ---- rows that belong to positions ----
template <class T>
__global__ void add_position_rows(T *y, const T *x, const T *table, int64_t N, int64_t T_, int64_t C,
                                  bool broadcast) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < N * C;
         i += (int64_t)gridDim.x * blockDim.x)
        y[i] = from_float<T>(to_float(x[i]) + to_float(table[(broadcast ? 0 : i / C % T_) * C + i % C]));
}

static void add_rows_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor x, oht_tensor table, int64_t offset,
                              bool broadcast) {
    cuda_context *ctx = cuda_of(be);
    int64_t N = oht_tensor_rows(x), C = x.dim[2];
    CUDA_BY_TYPE(ctx, y.dtype,
                 CUDA_LAUNCH(ctx, add_position_rows<T>, cuda_grid(ctx, N * C, THREADS), THREADS, 0,
                             cuda_data<T>(y), (const T *)cuda_data<T>(x),
                             (const T *)cuda_data<T>(table) + offset * C, N, x.dim[1], C, broadcast));
}

// d[t][j] = (add ? d : 0) + sum_b dy[b][t][j], b in order
template <class T> __global__ void sum_batch(float *d, const T *dy, int64_t B, int64_t n, bool add) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = 0.0f;
    for (int64_t b = 0; b < B; b++) sum += to_float(dy[b * n + i]);
    d[i] = (add ? d[i] : 0.0f) + sum;
}

static void add_rows_bwd_cuda(oht_backend *be, oht_tensor dtable, oht_tensor dy, int64_t offset,
                              bool broadcast, bool add) {
    cuda_context *ctx = cuda_of(be);
    int64_t B = dy.dim[0], T_ = dy.dim[1], C = dy.dim[2];
    float *d = oht_f32(dtable) + offset * C;
    if (!add) be->zero(be, dtable.data, (size_t)oht_tensor_count(dtable) * sizeof(float));
    if (broadcast)
        cuda_column_sum(ctx, d, dy, true);
    else
        CUDA_BY_TYPE(ctx, dy.dtype,
                     CUDA_LAUNCH(ctx, sum_batch<T>, cuda_blocks(T_ * C, THREADS), THREADS, 0, d,
                                 (const T *)cuda_data<T>(dy), B, T_ * C, true));
}

// y: of x's type, or fp32
template <class S, class T> __global__ void add_elements(S *y, const T *x, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        y[i] = from_float<S>(to_float(y[i]) + to_float(x[i]));
}

template <class S, class T> static void add_to(cuda_context *ctx, oht_tensor y, oht_tensor x) {
    int64_t n = oht_tensor_count(y);
    CUDA_LAUNCH(ctx, (add_elements<S, T>), cuda_grid(ctx, n, THREADS), THREADS, 0, cuda_data<S>(y),
                (const T *)cuda_data<T>(x), n);
}

static void add_cuda(oht_backend *be, oht_tensor y, oht_tensor x) {
    if (y.dtype == OHT_F32)
        CUDA_BY_TYPE(cuda_of(be), x.dtype, (add_to<float, T>(cuda_of(be), y, x)));
    else
        CUDA_BY_TYPE(cuda_of(be), x.dtype, (add_to<T, T>(cuda_of(be), y, x)));
}

void cuda_rows_entries(oht_backend *be) {
    be->embedding_fwd = embedding_fwd_cuda;
    be->embedding_bwd = embedding_bwd_cuda;
    be->add_rows_fwd = add_rows_fwd_cuda;
    be->add_rows_bwd = add_rows_bwd_cuda;
    be->gather_fwd = gather_fwd_cuda;
    be->gather_bwd = gather_bwd_cuda;
    be->add = add_cuda;
}
