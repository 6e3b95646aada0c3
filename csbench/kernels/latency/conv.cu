// Convolution at small batch with weights that keep one of M (or two of four, or all), on tensor
// cores: Complementary Sparsity and N:M, which differ in the order of channels alone; and weights
// in vectors, 32 output channels that keep the same columns.
//
// An implicit GEMM: rows are output channels, columns are output pixels. At batch 1 both together
// cannot fill the machine, so the K axis is cut over the blocks of a cluster and the warps of a
// block. Activations are NHWC halves. With SPLIT = 1 (the fp32 class) a second plane holds what
// the first one rounded away, and every product is three, hi*hi + hi*lo + lo*hi, summed in fp32.
// Activations and rows of weights are scaled by powers of two, so that neither plane overflows or
// loses bits to underflow.
//
// K is walked in steps of 32 channels at one tap. Channels lie in memory in an order (see pack.py)
// that makes a step either
//   MODE 0  dense: any 32 channels;
//   MODE 1  any two of every four neighbours kept: M = 2 with the candidates of a group side by
//           side, or 2:4;
//   MODE 2  M > 2: four of the M candidates of 8 groups: (2p, 2p+1) of each group, then the next p.
//   (MODE 3, vectors, walks its kept columns instead, see vectors.cuh.)
// One kept weight of a group is at most one of two neighbours: 2:4 sparsity, whose metadata in MODE
// 2 does not depend on the step. In MODE 2 a warp loads the kept weights of its rows once and, for each
// step, keeps those whose choice lies in it: weights travel compressed at every M.
//
// Weights and pixels arrive by the bulk copy engine; weights before the previous kernel has ended.
// Compile with -DSPLIT=0|1 -DMODE=0|1|2|3, the tile shape -DMT -DNT -DWM -DWN -DWK (m16 and n8 tiles
// of a warp; warps along rows, pixels, K), -DBLOCKS (resident in one multiprocessor, at least),
// -DCLUSTERED=0|1 (K cut over a cluster), -DFLOAT_OUT=0|1 (a float tensor instead of planes) and
// -DPAIRED=0|1 (two layers in one launch).
// At batch 1 a block runs its code once, so short code matters more than fast loops.
#include "latency/rows.cuh"
#if MODE == 3
#include "latency/vectors.cuh"
#else
#include "latency/steps.cuh"
#endif

// Pixels of one chunk, by one thread of every warp, which share the boxes; the copy engine writes
// zeros for what lies outside the image.
__device__ __forceinline__ void fetch_pixels(const Conv& c, const Tile& t, const TensorMap* map,
                                             int chunk, u32 to, u32 barrier) {
    const int x = (c.cut ? t.first - t.first_y * c.out_width : 0) * c.stride - c.pad_x;
    const int y = t.first_y * c.stride - c.pad_y;
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < t.groups * PLANES; i += THREADS / 32)
        load_box(to + i * t.plane_bytes, map, (chunk << c.chunk_log + 5) + i / PLANES * 64, x, y,
                 t.image, i % PLANES, barrier);
}

// For every n8 tile the pixel of the input tile whose row this lane hands to ldmatrix, or reads.
__device__ __forceinline__ void find_pixels(const Conv& c, const Tile& t, int wn,
                                            int (&pixel)[NT]) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        const int local = (wn * NT + n) * 8 + (MODE == 3 ? threadIdx.x / 4 & 7 : threadIdx.x & 7);
        const int p = t.first + min(local, t.count - 1), y = p / c.out_width;
        const int x = p - (c.cut ? t.first : y * c.out_width);
        pixel[n] = ((c.cut ? 0 : y - t.first_y) * c.columns + x) * c.grid_stride;
    }
}

// Partial sums to shared memory as [warp along K][pixel][row].
__device__ __forceinline__ void store_sums(const float (&sum)[MT][NT][4], float* red, int wm,
                                           int wn, int wk) {
    const int lane = threadIdx.x & 31;
    float* mine = red + (wk * BN + wn * NT * 8 + 2 * (lane & 3)) * RED_PITCH + wm * MT * 16 +
                  lane / 4;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                mine[(n * 8 + (i & 1)) * RED_PITCH + m * 16 + (i / 2) * 8] = sum[m][n][i];
}

__device__ __forceinline__ float4 add(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Everything after the sum, for four channels of one pixel.
__device__ __forceinline__ void finish(const Conv& c, long long pixel, const Rows& rows, float4 sum,
                                       float4 scale, float4 bias, uint2 rhi, uint2 rlo) {
    float v[4] = {sum.x * scale.x + bias.x, sum.y * scale.y + bias.y, sum.z * scale.z + bias.z,
                  sum.w * scale.w + bias.w};
    if (c.residual) {
        float r[4];
        unpack4(r, rhi, rlo, c.residual_scale);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] += r[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        // Comparisons that keep NaN, as torch's ReLU does.
        if (c.activation && v[i] < 0.f) v[i] = 0.f;
        if (c.activation == 2 && v[i] > 6.f) v[i] = 6.f;
    }
    if (!rows.here(c)) return;
    if constexpr (FLOAT_OUT)
        store_floats((float*)c.out + pixel * c.rows, c, rows, v);
    else
        store4((u16*)c.out + pixel * c.rows, c.out_plane, rows, v, c.out_scale);
}

// Sum over the block's and the cluster's parts of K, and everything after the sum. Each pixel
// belongs to one block of the cluster, which is sent the others' sums. `hi` and `lo` are the residual
// of the thread's first pixel.
__device__ __forceinline__ void reduce(const Conv& c, const Tile& t, float* red, u32 received,
                                       u32 rank, const Rows& rows, float4 scale, float4 bias,
                                       uint2 hi, uint2 lo) {
    const int quad = threadIdx.x % QUADS, line = threadIdx.x / QUADS;
    const int begin = CLUSTERED ? rank * c.share : 0;
    const int end = CLUSTERED ? min(begin + c.share, t.count) : t.count;
    const long long image = (long long)t.image * c.pixels + t.first;
    const auto fetch_residual = [&](int p) {
        if (c.residual == nullptr || !rows.here(c) || p >= end) return;
        const u16* from = c.residual + (image + p) * c.rows;
        hi = load4(from, rows);
        if (SPLIT) lo = load4(from + c.out_plane, rows);
    };
    __syncthreads();
    const auto block_sum = [&](int p) {
        const float4* first = (const float4*)(red + p * RED_PITCH + quad * 4);
        float4 sum = *first;
#pragma unroll
        for (int w = 1; w < WK; ++w) sum = add(sum, first[w * BN * RED_PITCH / 4]);
        return sum;
    };
    if constexpr (CLUSTERED) {
        const u32 receive = shared_address(red) + c.receive;
        cluster_await();  // every block has started
#pragma unroll 1
        for (int p = line; p < t.count; p += LINES) {
            const u32 owner = p * c.inverse >> 16, slot = rank * c.share + p - owner * c.share;
            send(receive + (slot * QUADS + quad) * 16, received, owner, block_sum(p));
        }
        if (begin < end) barrier_await(received, 0);
    }
#pragma unroll 1
    for (int p = begin + line; p < end; p += LINES) {
        float4 sum;
        if constexpr (CLUSTERED) {
            const float4* part = (const float4*)((const char*)red + c.receive) +
                                 (p - begin) * QUADS + quad;
            sum = *part;
#pragma unroll 1
            for (int q = 1; q < 1 << c.cluster_log; ++q) sum = add(sum, part[q * c.share * QUADS]);
        } else {
            sum = block_sum(p);
        }
        const uint2 high = hi, low = lo;
        fetch_residual(p + LINES);
        finish(c, image + p, rows, sum, scale, bias, high, low);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    conv(const __grid_constant__ Launch launch) {
    const int second = PAIRED && blockIdx.x >= launch.blocks;
    const Conv& c = launch.conv[second];
    const TensorMap* map = &launch.map[second];
    unsigned char* memory = dynamic_shared_memory();
    const u32 rank = CLUSTERED ? cluster_rank() : 0, cluster = CLUSTERED ? 1 << c.cluster_log : 1;
    const Tile t = make_tile(c, blockIdx.x - (second ? launch.blocks : 0));
    const u32 base = shared_address(memory), ready = four_barriers();  // a stage each, sums
    const u32 weight_room = (t.weight_bytes + 1023) & ~1023, received = ready + 24;

    // This block's chunks are rank, rank + cluster, ...; weights do not depend on the predecessor.
    const int mine = (c.chunks - rank + cluster - 1) >> (CLUSTERED ? c.cluster_log : 0);
    // Its descriptor, scales and biases neither; on their way before the wait they cost no latency.
    if (threadIdx.x == 32) prefetch_map(map);
    const Rows rows(c, t.row_block * BM + threadIdx.x % QUADS * 4);
    const float4 scale = *(const float4*)(c.scale + rows.first);
    const float4 bias = *(const float4*)(c.bias + rows.first);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; ++i) barrier_init(ready + i * 8, 1);
        fence_barrier_init();
        fence_async();
#pragma unroll 1
        for (int i = 0; i < min(mine, c.stages); ++i)
            fetch_weights(c, t, rank + i * cluster, base + i * t.stage_bytes, ready + i * 8);
        if constexpr (CLUSTERED) {
            const int owned = min((int)(rank + 1) * c.share, t.count) - (int)rank * c.share;
            if (owned > 0) barrier_expect(received, cluster * owned * BM * 4);
        }
    }
    if constexpr (CLUSTERED) cluster_arrive();
    const int warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
    int pixel[NT];
    find_pixels(c, t, wn, pixel);
    Walk walk = start_walk(c, t, rank, wk);
    float sum[MT][NT][4] = {};
    __syncthreads();
    uint2 hi = make_uint2(0, 0), lo = hi;
    if (threadIdx.x % 32 == 0) {
        await_predecessor();
#pragma unroll 1
        for (int i = 0; i < min(mine, c.stages); ++i)
            fetch_pixels(c, t, map, rank + i * cluster, base + i * t.stage_bytes + weight_room,
                         ready + i * 8);
        let_successor_start();
    }
    __syncwarp();
    if (c.residual) {
        await_predecessor();
        const int p = (CLUSTERED ? rank * c.share : 0) + threadIdx.x / QUADS;
        const int end = CLUSTERED ? min((int)((rank + 1) * c.share), t.count) : t.count;
        if (rows.here(c) && p < end) {
            const long long pixel = (long long)t.image * c.pixels + t.first + p;
            const u16* from = c.residual + pixel * c.rows;
            hi = load4(from, rows);
            if (SPLIT) lo = load4(from + c.out_plane, rows);
        }
    }
#pragma unroll 1
    for (int i = 0, stage = 0, phase = 0; i < mine; ++i) {
        const u32 at = base + stage * t.stage_bytes;
        barrier_await(ready + stage * 8, phase);
        multiply(c, t, walk, wm, at, at + weight_room, pixel, sum);
        if (i + c.stages < mine) {
            const int chunk = rank + (i + c.stages) * cluster;
            __syncthreads();
            if (threadIdx.x == 0) fetch_weights(c, t, chunk, at, ready + stage * 8);
            __syncthreads();  // the barrier must expect bytes before they come
            if (threadIdx.x % 32 == 0)
                fetch_pixels(c, t, map, chunk, at + weight_room, ready + stage * 8);
            __syncwarp();
        }
        walk = start_walk(c, t, rank + (i + 1) * cluster, wk);
        if (++stage == c.stages) stage = 0, phase ^= 1;
    }
    __syncthreads();
    await_predecessor();  // also for the residual and the output
    store_sums(sum, (float*)memory, wm, wn, wk);
    reduce(c, t, (float*)memory, received, rank, rows, scale, bias, hi, lo);
}
