// Gates on the heads (oht/backend.h, spec transformers 1.5; kernels/cpu/gate.c has the formulas): out = c pi ctx per head, pi =
// sigmoid(a), a from the head's own features x_h (linear, mlp), from all of them, or a parameter. A warp a token and head.
// Backward: dctx = c pi u,  da = c <u, ctx> pi (1 - pi), averaged over a sample's tokens where one gate serves them all, then a
// block a head and range of tokens sums the gradients of that head's parameters in shared memory, where a thread owns its
// places; the ranges are added in order.
#include "cuda/warp.h"

enum { GATE_WARPS = 4, GATE_PARTS = 64, GATE_ROWS = 8 };

struct gate_problem {
    int64_t N; // tokens of the batch
    int T, C, H, D, m; // m: hidden features of mlp, 0 otherwise
    int64_t rows_per; // tokens that share a value of pi: 1, T, or all
    bool unconditional, all_features;
    float scale;
};

static bool has_hidden(const oht_gate *g) {
    return g->kind != OHT_GATE_UNCONDITIONAL_PER_HEAD && (g->form == OHT_GATE_MLP || g->form == OHT_GATE_MLP2);
}

static gate_problem make_gate(const oht_gate *gate, oht_tensor pi, oht_tensor ctx, const oht_tensor w[4]) {
    gate_problem p = {};
    p.N = ctx.dim[0] * ctx.dim[1], p.T = (int)ctx.dim[1], p.C = (int)ctx.dim[2], p.H = gate->heads, p.D = p.C / p.H;
    p.m = has_hidden(gate) ? (int)w[0].dim[1] : 0;
    p.unconditional = gate->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD;
    p.all_features = !p.unconditional && gate->form == OHT_GATE_ALL_FEATURES;
    bool per_head = gate->kind == OHT_GATE_CONDITIONAL_PER_HEAD && oht_tensor_count(pi) == ctx.dim[0] * p.H;
    p.rows_per = p.unconditional ? p.N : per_head ? p.T : 1;
    p.scale = gate->scale;
    return p;
}

// Numbers of parameters a head: what its block sums.
static int64_t head_parameters(int64_t C, int64_t H, bool unconditional, bool all_features, int64_t m) {
    int64_t D = C / H;
    return unconditional ? 1 : all_features ? C + 1 : m ? m * D + 2 * m + 1 : D + 1;
}

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// Parameters of the gate, as stored.
template <class T> struct gate_weights {
    const T *w[4];
};

template <class T> __device__ __forceinline__ float lane_dot(const T *a, const T *b, int n) { // over the warp
    float sum = 0.0f;
    for (int c = threadIdx.x % WARP; c < n; c += WARP) sum += load(a + c) * load(b + c);
    return warp_sum(sum);
}

// a of one token and head, in all lanes.
template <class T>
__device__ __forceinline__ float preactivation(const gate_problem &p, const gate_weights<T> &w, const T *x, int h) {
    if (p.all_features) return lane_dot(x, w.w[0] + (size_t)h * p.C, p.C) + load(w.w[1] + h);
    const T *xh = x + h * p.D;
    if (!p.m) return lane_dot(xh, w.w[0] + h * p.D, p.D) + load(w.w[1] + h);
    float sum = load(w.w[3] + h);
    for (int j = 0; j < p.m; j++) {
        int at = h * p.m + j;
        float z = lane_dot(xh, w.w[0] + (size_t)at * p.D, p.D) + load(w.w[1] + at);
        sum += (z > 0.0f ? z : 0.0f) * load(w.w[2] + at);
    }
    return sum;
}

// a: (N,H), or pi directly where every token has its own.
template <class T>
__global__ void __launch_bounds__(GATE_WARPS *WARP)
    gate_preactivation_kernel(float *__restrict__ a, const T *__restrict__ x, gate_weights<T> w, gate_problem p, bool squash) {
    int64_t i = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (i >= p.N * p.H) return;
    float v = preactivation(p, w, x + i / p.H * p.C, (int)(i % p.H));
    if (threadIdx.x % WARP == 0) a[i] = squash ? sigmoid(v) : v;
}

// pi (n,H) = sigmoid of the mean of a over rows_per tokens, a warp a value.
__global__ void __launch_bounds__(GATE_WARPS *WARP) gate_pool_kernel(float *__restrict__ pi, const float *__restrict__ a, gate_problem p) {
    int64_t i = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (i >= p.N / p.rows_per * p.H) return;
    const float *first = a + i / p.H * p.rows_per * p.H + i % p.H;
    double sum = 0.0;
    for (int64_t t = threadIdx.x % WARP; t < p.rows_per; t += WARP) sum += (double)first[t * p.H];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) pi[i] = sigmoid((float)(sum / (double)p.rows_per));
}

template <class T> __global__ void gate_constant_kernel(float *pi, const T *a, int H) {
    int h = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (h < H) pi[h] = sigmoid(load(a + h));
}

__device__ __forceinline__ float pi_of(const gate_problem &p, const float *pi, int64_t n, int h) {
    return pi[(p.unconditional ? 0 : n / p.rows_per * p.H) + h];
}

template <class T>
__global__ void __launch_bounds__(GATE_WARPS *WARP)
    gate_apply_kernel(T *__restrict__ out, const T *__restrict__ ctx, const float *__restrict__ pi, gate_problem p) {
    int64_t i = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (i >= p.N * p.H) return;
    float factor = p.scale * pi_of(p, pi, i / p.H, (int)(i % p.H));
    int64_t at = i * p.D; // (N,H,D)
    for (int d = threadIdx.x % WARP; d < p.D; d += WARP) store(out + at + d, load(ctx + at + d) * factor);
}

// dctx (may be NULL) and da (N,H).
template <class T>
__global__ void __launch_bounds__(GATE_WARPS *WARP)
    gate_context_kernel(float *__restrict__ da, T *__restrict__ dctx, const T *__restrict__ u, const T *__restrict__ ctx,
                        const float *__restrict__ pi, gate_problem p, bool add) {
    int64_t i = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (i >= p.N * p.H) return;
    float gate = pi_of(p, pi, i / p.H, (int)(i % p.H)), factor = p.scale * gate, dot = 0.0f;
    int64_t at = i * p.D;
    for (int d = threadIdx.x % WARP; d < p.D; d += WARP) {
        float ud = load(u + at + d);
        dot += ud * load(ctx + at + d);
        if (dctx) store(dctx + at + d, ud * factor, add);
    }
    dot = warp_sum(dot);
    if (threadIdx.x % WARP == 0) da[i] = p.scale * dot * gate * (1.0f - gate);
}

// Every token's da becomes the mean over its sample's tokens; a warp a sample and head.
__global__ void __launch_bounds__(GATE_WARPS *WARP) gate_mean_da_kernel(float *da, gate_problem p) {
    int64_t i = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (i >= p.N / p.T * p.H) return;
    float *first = da + i / p.H * p.T * p.H + i % p.H;
    double sum = 0.0;
    for (int t = threadIdx.x % WARP; t < p.T; t += WARP) sum += (double)first[(int64_t)t * p.H];
    sum = warp_sum(sum);
    for (int t = threadIdx.x % WARP; t < p.T; t += WARP) first[(int64_t)t * p.H] = (float)(sum / (double)p.T);
}

// dx (N,C) of the forms without a hidden layer: da_h w_h, all_features: sum_h da_h W_h.
template <class T>
__global__ void __launch_bounds__(GATE_WARPS *WARP)
    gate_dx_kernel(T *__restrict__ dx, const float *__restrict__ da, const T *__restrict__ w, gate_problem p, bool add) {
    int64_t n = (int64_t)blockIdx.x * GATE_WARPS + threadIdx.x / WARP;
    if (n >= p.N) return;
    for (int c = threadIdx.x % WARP; c < p.C; c += WARP) {
        float sum = 0.0f;
        if (p.all_features)
            for (int h = 0; h < p.H; h++) sum += da[n * p.H + h] * load(w + (size_t)h * p.C + c);
        else
            sum = da[n * p.H + c / p.D] * load(w + c);
        store(dx + n * p.C + c, sum, add);
    }
}

// Sums over a range of tokens of the gradients of head blockIdx.y's parameters to parts (ranges, H, parameters), in the order of
// the table's w[], biases last; and dx of the mlp forms. Shared: the sums, then of GATE_ROWS tokens dz (m each) and da.
template <class T>
__global__ void __launch_bounds__(GATE_WARPS *WARP, 4)
    gate_parameters_kernel(float *__restrict__ parts, T *__restrict__ dx, const float *__restrict__ da, const T *__restrict__ x,
                           gate_weights<T> w, gate_problem p, int count, int64_t range, bool add) {
    OHT_DYN_SHARED(float, sums);
    const int h = blockIdx.y, m = p.m, D = p.D, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *dz = sums + count, *relu = dz + GATE_ROWS * m, *g = relu + GATE_ROWS * m;
    const T *w1 = w.w[0] + (size_t)h * m * D;
    for (int i = threadIdx.x; i < count; i += GATE_WARPS * WARP) sums[i] = 0.0f;
    const int64_t begin = (int64_t)blockIdx.x * range, end = begin + range < p.N ? begin + range : p.N;
    for (int64_t n0 = begin; n0 < end; n0 += GATE_ROWS) {
        const int rows = (int)min(end - n0, (int64_t)GATE_ROWS);
        const T *xr = p.unconditional ? x : x + n0 * p.C + (p.all_features ? 0 : h * D);
        __syncthreads(); // the last round has been read
        if ((int)threadIdx.x < rows) g[threadIdx.x] = da[(n0 + threadIdx.x) * p.H + h];
        __syncthreads();
        for (int i = warp; i < rows * m; i += GATE_WARPS) {
            int r = i / m, j = i % m;
            float z = lane_dot(xr + (size_t)r * p.C, w1 + (size_t)j * D, D) + load(w.w[1] + h * m + j);
            if (lane == 0) relu[i] = z > 0.0f ? z : 0.0f, dz[i] = z > 0.0f ? g[r] * load(w.w[2] + h * m + j) : 0.0f;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += GATE_WARPS * WARP) {
            float sum = 0.0f;
            if (i == count - 1) { // the bias behind everything
                for (int r = 0; r < rows; r++) sum += g[r];
            } else if (!m) {
                if (!p.unconditional)
                    for (int r = 0; r < rows; r++) sum += g[r] * load(xr + (size_t)r * p.C + i);
            } else if (i < m * D) {
                for (int r = 0; r < rows; r++) sum += dz[r * m + i / D] * load(xr + (size_t)r * p.C + i % D);
            } else if (i < m * D + m) {
                for (int r = 0; r < rows; r++) sum += dz[r * m + i - m * D];
            } else {
                for (int r = 0; r < rows; r++) sum += g[r] * relu[r * m + i - m * D - m];
            }
            sums[i] += sum;
        }
        if (m && dx)
            for (int i = threadIdx.x; i < rows * D; i += GATE_WARPS * WARP) {
                int r = i / D, d = i % D;
                float sum = 0.0f;
                for (int j = 0; j < m; j++) sum += dz[r * m + j] * load(w1 + (size_t)j * D + d);
                store(dx + (n0 + r) * p.C + h * D + d, sum, add);
            }
    }
    float *to = parts + ((size_t)blockIdx.x * p.H + h) * count;
    for (int i = threadIdx.x; i < count; i += GATE_WARPS * WARP) to[i] = sums[i];
}

// dw[] (fp32) of one head's parameter = sum of its parts in order.
struct gate_gradients {
    float *w[4];
};
__global__ void gate_parts_kernel(gate_gradients dw, const float *__restrict__ parts, gate_problem p, int count, int ranges, bool add) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), h = i / count, j = i % count, m = p.m;
    if (h >= p.H) return;
    double sum = 0.0;
    for (int r = 0; r < ranges; r++) sum += (double)parts[((size_t)r * p.H + h) * count + j];
    float *to;
    if (j == count - 1)
        to = (p.unconditional ? dw.w[0] : m ? dw.w[3] : dw.w[1]) + h;
    else if (!m)
        to = dw.w[0] + (size_t)h * (count - 1) + j;
    else if (j < m * p.D)
        to = dw.w[0] + (size_t)h * m * p.D + j;
    else if (j < m * p.D + m)
        to = dw.w[1] + h * m + j - m * p.D;
    else
        to = dw.w[2] + h * m + j - m * p.D - m;
    store(to, (float)sum, add);
}

// a or da (N,H), then the parts of the parameters' gradients.
static size_t gate_scratch_cuda(oht_backend *be, int64_t B, int64_t T, int64_t C, const oht_gate *gate, int64_t hidden) {
    (void)be;
    bool unconditional = gate->kind == OHT_GATE_UNCONDITIONAL_PER_HEAD;
    int64_t each = head_parameters(C, gate->heads, unconditional, gate->form == OHT_GATE_ALL_FEATURES, has_hidden(gate) ? hidden : 0);
    return (size_t)(B * T * gate->heads + GATE_PARTS * gate->heads * each) * sizeof(float);
}

template <class T> static gate_weights<T> weights_of(const oht_tensor w[4]) {
    gate_weights<T> r;
    for (int i = 0; i < 4; i++) r.w[i] = cuda_data<T>(w[i]);
    return r;
}

template <class T>
static void run_fwd(cuda_context *ctx, const gate_problem &p, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctxt,
                    const oht_tensor w[4], float *a) {
    dim3 threads(GATE_WARPS * WARP), pairs(cuda_blocks(p.N * p.H, GATE_WARPS));
    if (p.N == 0 && !p.unconditional) return;
    if (p.unconditional) {
        CUDA_LAUNCH(ctx, gate_constant_kernel<T>, dim3(cuda_blocks(p.H, WARP)), dim3(WARP), 0, oht_f32(pi), cuda_data<T>(w[0]), p.H);
    } else {
        bool own = p.rows_per == 1;
        CUDA_LAUNCH(ctx, gate_preactivation_kernel<T>, pairs, threads, 0, own ? oht_f32(pi) : a, cuda_data<T>(x), weights_of<T>(w), p,
                    own);
        if (!own)
            CUDA_LAUNCH(ctx, gate_pool_kernel, dim3(cuda_blocks(p.N / p.rows_per * p.H, GATE_WARPS)), threads, 0, oht_f32(pi), a, p);
    }
    CUDA_LAUNCH(ctx, gate_apply_kernel<T>, pairs, threads, 0, cuda_data<T>(out), cuda_data<T>(ctxt), oht_f32(pi), p);
}

static void gate_fwd_cuda(oht_backend *be, oht_tensor out, oht_tensor pi, oht_tensor x, oht_tensor ctx, const oht_tensor w[4],
                          const oht_gate *gate, void *scratch) {
    gate_problem p = make_gate(gate, pi, ctx, w);
    CUDA_BY_TYPE(cuda_of(be), ctx.dtype, run_fwd<T>(cuda_of(be), p, out, pi, x, ctx, w, (float *)scratch));
}

template <class T>
static void run_bwd(cuda_context *ctx, const gate_problem &p, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout,
                    oht_tensor pi, oht_tensor x, oht_tensor ctxt, const oht_tensor w[4], const bool add[2], bool add_dp, float *da) {
    dim3 threads(GATE_WARPS * WARP);
    CUDA_LAUNCH(ctx, gate_context_kernel<T>, dim3(cuda_blocks(p.N * p.H, GATE_WARPS)), threads, 0, da, cuda_data<T>(dctx),
                cuda_data<T>(dout), cuda_data<T>(ctxt), oht_f32(pi), p, add[1]);
    if (!p.unconditional && p.rows_per > 1)
        CUDA_LAUNCH(ctx, gate_mean_da_kernel, dim3(cuda_blocks(p.N / p.T * p.H, GATE_WARPS)), threads, 0, da, p);
    if (!p.unconditional && !p.m && dx.data)
        CUDA_LAUNCH(ctx, gate_dx_kernel<T>, dim3(cuda_blocks(p.N, GATE_WARPS)), threads, 0, cuda_data<T>(dx), da, cuda_data<T>(w[0]), p,
                    add[0]);
    float *parts = da + p.N * p.H;
    int count = (int)head_parameters(p.C, p.H, p.unconditional, p.all_features, p.m);
    int64_t range = (p.N + GATE_PARTS - 1) / GATE_PARTS;
    if (range < GATE_ROWS) range = GATE_ROWS;
    int ranges = (int)((p.N + range - 1) / range);
    size_t bytes = ((size_t)count + GATE_ROWS * (2 * (size_t)p.m + 1)) * sizeof(float);
    gate_gradients to;
    for (int i = 0; i < 4; i++) to.w[i] = oht_f32(dw[i]);
    allow_shared(ctx, (const void *)gate_parameters_kernel<T>, bytes);
    CUDA_LAUNCH(ctx, gate_parameters_kernel<T>, dim3((unsigned)ranges, (unsigned)p.H), threads, bytes, parts, cuda_data<T>(dx), da,
                p.unconditional ? (const T *)NULL : cuda_data<T>(x), weights_of<T>(w), p, count, range, add[0]);
    CUDA_LAUNCH(ctx, gate_parts_kernel, dim3(cuda_blocks((int64_t)p.H * count, 128)), dim3(128), 0, to, parts, p, count, ranges, add_dp);
}

static void gate_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dctx, oht_tensor dw[4], oht_tensor dout, oht_tensor pi,
                          oht_tensor x, oht_tensor ctx, const oht_tensor w[4], const oht_gate *gate, const bool add[2], bool add_dp,
                          void *scratch) {
    gate_problem p = make_gate(gate, pi, ctx, w);
    CUDA_BY_TYPE(cuda_of(be), ctx.dtype,
                 run_bwd<T>(cuda_of(be), p, dx, dctx, dw, dout, pi, x, ctx, w, add, add_dp, (float *)scratch));
}

void cuda_gate_entries(oht_backend *be) {
    be->gate_scratch = gate_scratch_cuda;
    be->gate_fwd = gate_fwd_cuda;
    be->gate_bwd = gate_bwd_cuda;
}
