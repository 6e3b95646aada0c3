// Mean over all pixels and the dense linear layer after it, from planes to torch's result.
//
// A cluster of PARTS blocks makes 64 rows. Each block takes a part of the channels: it finds their
// means, multiplies them with its weights, which arrive before the previous kernel has ended, and
// sends its sums to the first block.
// Compile with -DSPLIT=0|1 (weights are floats or halves) and -DHALF_OUT=0|1.

#include "latency/common.cuh"

struct Head {
    const u16* x;
    const unsigned char* weights;  // [64 rows][part][row][channel of the part]
    const float *scale, *bias;     // per row: undoes the scales of weights and input
    void* out;
    long long plane;
    int images, pixels, channels, rows;  // channels with padding
};

constexpr int PARTS = 8, ROWS = 64, THREADS = 512, WARPS = THREADS / 32, EACH = ROWS / WARPS;
constexpr int BYTES = SPLIT ? 4 : 2;  // of a weight

__device__ __forceinline__ float4 add(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ __forceinline__ float4 weights4(const unsigned char* from) {
    if (SPLIT) return *(const float4*)from;
    return load4((const u16*)from, 0);
}

// Means of this block's channels; `partial` has room for four floats of every thread.
__device__ __forceinline__ void find_means(const Head& h, int image, int first, int quads,
                                           float4* partial, float4* means) {
    const int groups = THREADS / quads, quad = threadIdx.x % quads, group = threadIdx.x / quads;
    float4 sum = make_float4(0, 0, 0, 0);
    if (group < groups) {
        const u16* from = h.x + (long long)image * h.pixels * h.channels + first + quad * 4;
#pragma unroll 8
        for (int p = group; p < h.pixels; p += groups)
            sum = add(sum, load4(from + (long long)p * h.channels, h.plane));
        partial[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x < quads) {
        for (int g = 1; g < groups; ++g) sum = add(sum, partial[g * quads + threadIdx.x]);
        const float n = (float)h.pixels;
        means[threadIdx.x] = make_float4(sum.x / n, sum.y / n, sum.z / n, sum.w / n);
    }
    __syncthreads();
}

extern "C" __global__ void __cluster_dims__(PARTS) __launch_bounds__(THREADS)
    head(const __grid_constant__ Head h) {
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ __align__(8) u64 ready;
    __shared__ float4 partial[THREADS];
    const int part = h.channels / PARTS, quads = part / 4, rank = blockIdx.x % PARTS;
    const int first_row = blockIdx.x / PARTS * ROWS, size = ROWS * part * BYTES;
    float4* means = (float4*)(memory + size);
    float* sums = (float*)(means + quads);  // [image][part][row], of the first block
    if (threadIdx.x == 0)
        fetch(shared_address(memory), h.weights + (long long)blockIdx.x * size, size,
              shared_address(&ready));
    asm volatile("barrier.cluster.arrive.relaxed;\ngriddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (int image = 0; image < h.images; ++image) {
        find_means(h, image, rank * part, quads, partial, means);
        if (image == 0) {
            fetched(shared_address(&ready));
            asm volatile("barrier.cluster.wait;" ::: "memory");  // the first block has started
        }
        float mine = 0.f;
#pragma unroll
        for (int r = 0; r < EACH; ++r) {
            const unsigned char* row = memory + (warp * EACH + r) * part * BYTES;
            float sum = 0.f;
            for (int q = lane; q < quads; q += 32) {
                const float4 w = weights4(row + q * 4 * BYTES), m = means[q];
                sum += w.x * m.x + w.y * m.y + w.z * m.z + w.w * m.w;
            }
#pragma unroll
            for (int far = 16; far; far /= 2) sum += __shfl_xor_sync(~0u, sum, far);
            if (lane == r) mine = sum;
        }
        if (lane < EACH) {
            const u32 to = shared_address(sums + (image * PARTS + rank) * ROWS + warp * EACH + lane);
            asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, 0;\n"
                         "st.shared::cluster.f32 [there], %1;\n}" ::"r"(to), "f"(mine) : "memory");
        }
        __syncthreads();
    }
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    if (rank) return;
    for (int i = threadIdx.x; i < h.images * ROWS; i += THREADS) {
        const int row = first_row + i % ROWS, image = i / ROWS;
        if (row >= h.rows) continue;
        float sum = 0.f;
#pragma unroll
        for (int p = 0; p < PARTS; ++p) sum += sums[(image * PARTS + p) * ROWS + i % ROWS];
        const float v = sum * h.scale[row] + h.bias[row];
        const long long at = (long long)image * h.rows + row;
        if (HALF_OUT) ((u16*)h.out)[at] = to_half(v);
        else ((float*)h.out)[at] = v;
    }
}
