// What this GPU is and can: name, storage types, peak rates; and the copy of parameters in a storage type.
#include "cuda/cuda.h"

#include <stdio.h>

// Dense rates of the data sheets, TFLOP/s: 16-bit types with fp32 sums, TF32, fp32.
static const struct {
    const char *name; // part of the device's name; the first that fits counts
    double half, tf32, single;
} SHEET[] = {
    {"GH200", 989.4, 494.7, 66.9},       {"H200", 989.4, 494.7, 66.9},      {"H100 PCIe", 756.0, 378.0, 51.2},
    {"H100 NVL", 835.5, 417.5, 60.0},    {"H100", 989.4, 494.7, 66.9},      {"A100", 312.0, 156.0, 19.5},
    {"A30", 165.0, 82.0, 10.3},          {"A40", 149.7, 74.8, 37.4},        {"L40S", 362.0, 183.0, 91.6},
    {"L40", 181.0, 90.5, 90.5},          {"L4", 121.0, 60.0, 30.3},
};

static double peak_cuda(oht_backend *be, oht_dtype type) {
    for (const auto &gpu : SHEET)
        if (strstr(be->device, gpu.name)) return 1e12 * (type != OHT_F32 ? gpu.half : be->tf32 ? gpu.tf32 : gpu.single);
    return 0;
}

template <class T> __global__ void cast_kernel(T *dst, const float *src, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        dst[i] = from_float<T>(src[i]);
}

static void cast_cuda(oht_backend *be, void *dst, oht_dtype type, const float *src, int64_t n) {
    cuda_context *ctx = cuda_of(be);
    CUDA_BY_TYPE(ctx, type, CUDA_LAUNCH(ctx, (cast_kernel<T>), cuda_grid(ctx, n, 256), 256, 0, (T *)dst, src, n));
}

void cuda_precision_entries(oht_backend *be) {
    cuda_context *ctx = cuda_of(be);
    cudaDeviceProp properties;
    int major = 0, devices = 0;
    bool named = cudaGetDeviceProperties(&properties, ctx->device) == cudaSuccess;
    CUDA_OK(ctx, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ctx->device));
    CUDA_OK(ctx, cudaGetDeviceCount(&devices));
    snprintf(be->device, sizeof(be->device), "cuda %d (%.72s)", ctx->device, named ? properties.name : "GPU");
    be->devices = devices;
    be->has_type[OHT_F32] = true;
    be->has_type[OHT_BF16] = be->has_tf32 = major >= 8;
    be->has_type[OHT_F16] = major >= 7;
    be->cast = cast_cuda;
    be->peak = peak_cuda;
}
