// Linear layers and matrix products through cuBLASLt. Bias and ReLU ride in its epilogue; its GELU is the tanh form, ours
// the exact one, so that has a kernel of its own. Backward: u = dy act'(..) and the bias gradient's partial sums in one
// pass over dy, then dx = u w and dw = u^T x.
//
// cuBLASLt thinks in columns: a row-major (r, c) matrix is its (c, r) one, so c = op(a) op(b) is asked for as
// c^T = op(b)^T op(a)^T, which turns rows of c into columns and lets the bias run along c's last axis.
#include <map>
#include <tuple>

#include "cuda/cuda.h"

// ---- products ----
namespace {
struct Shape {
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    cudaDataType in, out;
    int epilogue;
    bool tf32;
    bool operator<(const Shape &o) const {
        return std::tie(ta, tb, m, n, k, lda, ldb, ldc, in, out, epilogue, tf32) <
               std::tie(o.ta, o.tb, o.m, o.n, o.k, o.lda, o.ldb, o.ldc, o.in, o.out, o.epilogue, o.tf32);
    }
};
struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
    bool good = false;
};
enum { MOST_PLANS = 1024 }; // picked rows differ from batch to batch: forget all when there are more shapes
} // namespace

struct cuda_gemms {
    cublasLtMatmulPreference_t preference = nullptr;
    std::map<Shape, Plan> plan;
};

static void forget(cuda_gemms *g) {
    for (auto &it : g->plan) {
        Plan &p = it.second;
        if (p.operation) (void)cublasLtMatmulDescDestroy(p.operation);
        if (p.a) (void)cublasLtMatrixLayoutDestroy(p.a);
        if (p.b) (void)cublasLtMatrixLayoutDestroy(p.b);
        if (p.c) (void)cublasLtMatrixLayoutDestroy(p.c);
    }
    g->plan.clear();
}

bool cuda_linear_start(cuda_context *ctx) {
    size_t workspace = CUDA_WORKSPACE;
    ctx->gemms = new cuda_gemms();
    return CUBLAS_OK(ctx, cublasLtCreate(&ctx->lt)) &&
           CUBLAS_OK(ctx, cublasLtMatmulPreferenceCreate(&ctx->gemms->preference)) &&
           CUBLAS_OK(ctx, cublasLtMatmulPreferenceSetAttribute(ctx->gemms->preference,
                                                               CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                               &workspace, sizeof(workspace)));
}

void cuda_linear_end(cuda_context *ctx) {
    if (!ctx->gemms) return;
    forget(ctx->gemms);
    if (ctx->gemms->preference) (void)cublasLtMatmulPreferenceDestroy(ctx->gemms->preference);
    if (ctx->lt) (void)cublasLtDestroy(ctx->lt);
    delete ctx->gemms;
    ctx->gemms = nullptr;
}

static bool make_plan(cuda_context *ctx, Plan *p, const Shape &s) {
    // The library's first matrix is our b, its second our a.
    cublasOperation_t first = s.tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = s.ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasComputeType_t compute =
        s.in == CUDA_R_32F && s.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)s.epilogue;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    bool ok = CUBLAS_OK(ctx, cublasLtMatmulDescCreate(&p->operation, compute, CUDA_R_32F)) &&
              CUBLAS_OK(ctx, cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                                            sizeof(first))) &&
              CUBLAS_OK(ctx, cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                                            &second, sizeof(second))) &&
              CUBLAS_OK(ctx, cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                            &epilogue, sizeof(epilogue))) &&
              CUBLAS_OK(ctx, cublasLtMatrixLayoutCreate(&p->b, s.in, (uint64_t)(s.tb ? s.k : s.n),
                                                        (uint64_t)(s.tb ? s.n : s.k), s.ldb)) &&
              CUBLAS_OK(ctx, cublasLtMatrixLayoutCreate(&p->a, s.in, (uint64_t)(s.ta ? s.m : s.k),
                                                        (uint64_t)(s.ta ? s.k : s.m), s.lda)) &&
              CUBLAS_OK(ctx, cublasLtMatrixLayoutCreate(&p->c, s.out, (uint64_t)s.n, (uint64_t)s.m, s.ldc)) &&
              CUBLAS_OK(ctx, cublasLtMatmulAlgoGetHeuristic(ctx->lt, p->operation, p->b, p->a, p->c, p->c,
                                                            ctx->gemms->preference, 1, &found, &n));
    if (ok && n < 1) {
        cuda_note(ctx, "cublasLtMatmulAlgoGetHeuristic", "no algorithm for this product", __FILE__, __LINE__);
        ok = false;
    }
    if (ok) p->algorithm = found.algo;
    return ok;
}

static void product(cuda_context *ctx, const Shape &s, float alpha, const void *a, const void *b, float beta,
                    void *c, const void *bias) {
    if (ctx->failed || s.m < 1 || s.n < 1 || s.k < 1) return;
    cuda_gemms *g = ctx->gemms;
    if (g->plan.size() >= MOST_PLANS && g->plan.find(s) == g->plan.end()) forget(g);
    Plan &p = g->plan[s];
    if (!p.good && !(p.good = make_plan(ctx, &p, s))) return;
    if (bias && !CUBLAS_OK(ctx, cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                               &bias, sizeof(bias))))
        return;
    CUBLAS_OK(ctx, cublasLtMatmul(ctx->lt, p.operation, &alpha, b, p.b, a, p.a, &beta, c, p.c, c, p.c,
                                  &p.algorithm, ctx->workspace, CUDA_WORKSPACE, ctx->stream));
}

static cudaDataType type_of(oht_tensor t) {
    return t.dtype == OHT_BF16 ? CUDA_R_16BF : t.dtype == OHT_F16 ? CUDA_R_16F : CUDA_R_32F;
}

// ---- activations ----
__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * erfcf(-0.707106781f * x);
}
__device__ __forceinline__ float gelu_grad(float x) { // Phi(x) + x phi(x)
    return 0.5f * erfcf(-0.707106781f * x) + 0.398942280f * x * expf(-0.5f * x * x);
}

template <class T> __global__ void activation_fwd(T *y, const T *z, int64_t n, oht_act act) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        float x = to_float(z[i]);
        y[i] = from_float<T>(act == OHT_ACT_GELU ? gelu(x) : act == OHT_ACT_RELU && x < 0.0f ? 0.0f : x);
    }
}

// dy act' where act needs pre (GELU) or y (ReLU)
template <class T>
__device__ __forceinline__ float before_activation(float dy, const T *pre, const T *y, int64_t i,
                                                   oht_act act) {
    if (act == OHT_ACT_GELU) return dy * gelu_grad(to_float(pre[i]));
    if (act == OHT_ACT_RELU) return to_float(y[i]) > 0.0f ? dy : 0.0f;
    return dy;
}

template <class T> __global__ void activation_bwd(T *dy, const T *pre, const T *y, int64_t n, oht_act act) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        dy[i] = from_float<T>(before_activation(to_float(dy[i]), pre, y, i, act));
}

// ---- column sums ----
enum { COLUMNS = 32, LINES = 8, MOST_CHUNKS = 64, CHUNK_ROWS = 64 };

// part[chunk][j] = sum over the chunk's rows of u[., j], u = dy act'; u replaces dy when there is an activation.
template <class T>
__global__ void column_part(float *part, T *dy, const T *pre, const T *y, int64_t N, int64_t C, int64_t rows,
                            oht_act act) {
    OHT_SHARED2(float, line, LINES, COLUMNS);
    int64_t j = (int64_t)blockIdx.x * COLUMNS + threadIdx.x, end = min((int64_t)(blockIdx.y + 1) * rows, N);
    float sum = 0.0f;
    for (int64_t i = (int64_t)blockIdx.y * rows + threadIdx.y; j < C && i < end; i += LINES) {
        float u = to_float(dy[i * C + j]);
        if (act != OHT_ACT_NONE) {
            T kept = from_float<T>(before_activation(u, pre, y, i * C + j, act));
            dy[i * C + j] = kept;
            u = to_float(kept);
        }
        sum += u;
    }
    line[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || j >= C) return;
    for (int k = 1; k < LINES; k++) sum += line[k][threadIdx.x];
    part[blockIdx.y * C + j] = sum;
}

__global__ void column_finish(float *b, const float *part, int64_t C, int chunks, bool add) {
    int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= C) return;
    float sum = 0.0f;
    for (int k = 0; k < chunks; k++) sum += part[k * C + j];
    b[j] = (add ? b[j] : 0.0f) + sum;
}

template <class T>
static void column_sum(cuda_context *ctx, float *b, T *dy, const T *pre, const T *y, int64_t N, int64_t C,
                       oht_act act, bool add) {
    int64_t room = (int64_t)(CUDA_PARTIAL / sizeof(float)) / C,
            most = cuda_min(MOST_CHUNKS, room > 0 ? room : 1);
    int64_t chunks = cuda_min(cuda_blocks(N, CHUNK_ROWS), most), rows = cuda_blocks(N, chunks);
    chunks = cuda_blocks(N, rows);
    float *part = (float *)ctx->partial;
    CUDA_LAUNCH(ctx, column_part<T>, dim3(cuda_blocks(C, COLUMNS), (unsigned)chunks), dim3(COLUMNS, LINES), 0,
                part, dy, pre, y, N, C, rows, act);
    CUDA_LAUNCH(ctx, column_finish, cuda_blocks(C, 128), 128, 0, b, (const float *)part, C, (int)chunks, add);
}

void cuda_column_sum(cuda_context *ctx, float *b, oht_tensor x, bool add) {
    CUDA_BY_TYPE(ctx, x.dtype,
                 column_sum<T>(ctx, b, cuda_data<T>(x), nullptr, nullptr, oht_tensor_rows(x),
                               x.dim[x.rank - 1], OHT_ACT_NONE, add));
}

// ---- layers ----
static void linear_fwd_cuda(oht_backend *be, oht_tensor y, oht_tensor pre, oht_tensor x, oht_tensor w,
                            oht_tensor b, oht_act act) {
    cuda_context *ctx = cuda_of(be);
    int64_t N = oht_tensor_rows(x), K = w.dim[1], M = w.dim[0];
    bool own = act == OHT_ACT_GELU || pre.data; // a pass of our own after the product
    bool relu = act == OHT_ACT_RELU && !own;
    int epilogue = relu ? (b.data ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU)
                        : (b.data ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
    oht_tensor z = pre.data ? pre : y;
    product(ctx, {false, true, N, M, K, K, K, M, type_of(x), type_of(y), epilogue, be->tf32}, 1.0f, x.data,
            w.data, 0.0f, z.data, b.data);
    if (own)
        CUDA_BY_TYPE(ctx, y.dtype,
                     CUDA_LAUNCH(ctx, activation_fwd<T>, cuda_grid(ctx, N * M, 256), 256, 0, cuda_data<T>(y),
                                 (const T *)cuda_data<T>(z), N * M, act));
}

static void linear_bwd_cuda(oht_backend *be, oht_tensor dx, oht_tensor dw, oht_tensor db, oht_tensor dy,
                            oht_tensor x, oht_tensor w, oht_tensor pre, oht_tensor y, oht_act act,
                            bool add_dx, bool add_dp) {
    cuda_context *ctx = cuda_of(be);
    int64_t N = oht_tensor_rows(dy), K = w.dim[1], M = w.dim[0];
    if (db.data)
        CUDA_BY_TYPE(ctx, dy.dtype,
                     column_sum<T>(ctx, oht_f32(db), cuda_data<T>(dy), cuda_data<T>(pre), cuda_data<T>(y), N,
                                   M, act, add_dp));
    else if (act != OHT_ACT_NONE)
        CUDA_BY_TYPE(ctx, dy.dtype,
                     CUDA_LAUNCH(ctx, activation_bwd<T>, cuda_grid(ctx, N * M, 256), 256, 0, cuda_data<T>(dy),
                                 (const T *)cuda_data<T>(pre), (const T *)cuda_data<T>(y), N * M, act));
    if (dx.data)
        product(
            ctx,
            {false, false, N, K, M, M, K, K, type_of(dy), type_of(dx), CUBLASLT_EPILOGUE_DEFAULT, be->tf32},
            1.0f, dy.data, w.data, add_dx ? 1.0f : 0.0f, dx.data, nullptr);
    if (dw.data)
        product(
            ctx,
            {true, false, M, K, N, M, K, K, type_of(dy), type_of(dw), CUBLASLT_EPILOGUE_DEFAULT, be->tf32},
            1.0f, dy.data, x.data, add_dp ? 1.0f : 0.0f, dw.data, nullptr);
}

void cuda_linear_entries(oht_backend *be) {
    be->linear_fwd = linear_fwd_cuda;
    be->linear_bwd = linear_bwd_cuda;
}
