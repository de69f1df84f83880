// cuBLASLt of the emulation, over CBLAS: the vendor's prototypes, column-major, products in float. It refuses what the
// library refuses: shapes that do not fit, short leading dimensions, host pointers, an auxiliary matrix whose leading
// dimension is no multiple of 8. Epilogues: bias, ReLU, gradients of a bias.
#include <cblas.h>
#include <cublasLt.h>
#include <vector>

#include "emulation/emulator.h"

using namespace oht_emu;

namespace {
size_t width(cudaDataType t) {
    return t == CUDA_R_32F ? 4 : 2;
}
float get(const void *p, size_t i, cudaDataType t) {
    return t == CUDA_R_32F    ? ((const float *)p)[i]
           : t == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)p)[i])
                              : __half2float(((const __half *)p)[i]);
}
void put(void *p, size_t i, cudaDataType t, float v) {
    if (t == CUDA_R_32F)
        ((float *)p)[i] = v;
    else if (t == CUDA_R_16BF)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16(v);
    else
        ((__half *)p)[i] = __float2half(v);
}

struct Layout {
    cudaDataType type;
    int64_t rows, columns, ld;
    int32_t batch = 1;
    int64_t stride = 0;
};
struct Operation {
    cublasComputeType_t compute;
    cudaDataType_t scale_type;
    cublasOperation_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr;
    int32_t bias_type = -1; // cudaDataType; -1: that of the result
};
struct Other {
    int unused;
};

std::vector<float> packed(const void *p, const Layout &l) {
    std::vector<float> out((size_t)(l.rows * l.columns));
    for (int64_t j = 0; j < l.columns; j++)
        for (int64_t i = 0; i < l.rows; i++)
            out[(size_t)(j * l.rows + i)] = get(p, (size_t)(j * l.ld + i), l.type);
    return out;
}

void multiply(const Operation &op, float alpha, const char *A, const Layout &a, const char *B,
              const Layout &b, float beta, const char *C, const Layout &c, char *D, const Layout &d) {
    int64_t m = d.rows, n = d.columns, k = op.ta ? a.rows : a.columns;
    std::vector<float> pa = packed(A, a), pb = packed(B, b), r((size_t)(m * n));
    if (m > 0 && n > 0 && k > 0)
        cblas_sgemm(CblasColMajor, op.ta ? CblasTrans : CblasNoTrans, op.tb ? CblasTrans : CblasNoTrans,
                    (int)m, (int)n, (int)k, alpha, pa.data(), (int)a.rows, pb.data(), (int)b.rows, 0.0f,
                    r.data(), (int)m);
    cudaDataType bias_type = op.bias_type < 0 ? d.type : (cudaDataType)op.bias_type;
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) {
            float v = r[(size_t)(j * m + i)];
            if (beta != 0.0f) v += beta * get(C, (size_t)(j * c.ld + i), c.type);
            if (op.epilogue == CUBLASLT_EPILOGUE_BIAS || op.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS)
                v += get(op.bias, (size_t)i, bias_type);
            if (op.epilogue == CUBLASLT_EPILOGUE_RELU || op.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS)
                v = v < 0.0f ? 0.0f : v;
            put(D, (size_t)(j * d.ld + i), d.type, v);
        }
}

bool fits(const void *p, const Layout &l, int64_t elements) {
    return elements == 0 ||
           (is_device_pointer(p) &&
            is_device_pointer((const char *)p + (size_t)((l.columns - 1) * l.ld + l.rows) * width(l.type) -
                              1));
}
} // namespace

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    *h = (cublasLtHandle_t) new Other;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    delete (Other *)h;
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t s) {
    return s == CUBLAS_STATUS_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "a cuBLAS error";
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    Operation *op = new Operation;
    op->compute = compute;
    op->scale_type = scale;
    *d = (cublasLtMatmulDesc_t)op;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    delete (Operation *)d;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which,
                                              const void *v, size_t size) {
    Operation *op = (Operation *)desc;
    void *to;
    size_t want;
    switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        to = &op->ta, want = sizeof(op->ta);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        to = &op->tb, want = sizeof(op->tb);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        to = &op->epilogue, want = sizeof(op->epilogue);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        to = &op->bias, want = sizeof(op->bias);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        to = &op->bias_type, want = sizeof(op->bias_type);
        break;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (size != want) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, v, size);
    switch (op->epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
        return CUBLAS_STATUS_SUCCESS;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType t, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    if (t != CUDA_R_32F && t != CUDA_R_16BF && t != CUDA_R_16F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *l = (cublasLtMatrixLayout_t) new Layout{t, (int64_t)rows, (int64_t)columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete (Layout *)l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t which, const void *v,
                                                size_t size) {
    Layout *l = (Layout *)layout;
    if (which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && size == 4)
        memcpy(&l->batch, v, 4);
    else if (which == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && size == 8)
        memcpy(&l->stride, v, 8);
    else
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = (cublasLtMatmulPreference_t) new Other;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    delete (Other *)p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t, const void *,
                                                    size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int want,
                                              cublasLtMatmulHeuristicResult_t r[], int *n) {
    memset((void *)r, 0, sizeof(r[0]) * (size_t)want);
    *n = want > 0;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t la, const void *B, cublasLtMatrixLayout_t lb,
                              const void *beta, const void *C, cublasLtMatrixLayout_t lc, void *D,
                              cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    Operation op = *(Operation *)desc;
    Layout a = *(Layout *)la, b = *(Layout *)lb, c = *(Layout *)lc, d = *(Layout *)ld;
    float x = *(const float *)alpha, y = *(const float *)beta;
    int64_t m = d.rows, n = d.columns, k = op.ta ? a.rows : a.columns;
    if (m < 1 || n < 1 || k < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if ((op.ta ? a.columns : a.rows) != m || (op.tb ? b.rows : b.columns) != n ||
        (op.tb ? b.columns : b.rows) != k || c.rows != m || c.columns != n)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a.ld < a.rows || b.ld < b.rows || c.ld < m || d.ld < m) return CUBLAS_STATUS_INVALID_VALUE;
    if (a.type != b.type || c.type != d.type || (d.type != a.type && d.type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a.batch != d.batch || b.batch != d.batch || c.batch != d.batch) return CUBLAS_STATUS_INVALID_VALUE;
    if (!fits(A, a, m * k) || !fits(B, b, k * n) || !fits(C, c, m * n) || !fits(D, d, m * n))
        return CUBLAS_STATUS_INVALID_VALUE;
    bool biased = op.epilogue == CUBLASLT_EPILOGUE_BIAS || op.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
    if (biased && !is_device_pointer(op.bias)) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes && !is_device_pointer(workspace)) return CUBLAS_STATUS_INVALID_VALUE;
    enqueue(stream, [=] {
        for (int t = 0; t < d.batch; t++) {
            auto at = [t](const void *p, const Layout &l) {
                return (char *)p + (size_t)(t * l.stride) * width(l.type);
            };
            multiply(op, x, at(A, a), a, at(B, b), b, y, at(C, c), c, at(D, d), d);
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}
}
