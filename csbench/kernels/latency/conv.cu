// Convolution at small batch with weights that keep one of M (or two of four, or all), on tensor
// cores: Complementary Sparsity and N:M, which differ in the order of channels alone.
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
// One kept weight of a group is at most one of two neighbours: 2:4 sparsity, whose metadata in MODE
// 2 does not depend on the step. In MODE 2 a warp loads the kept weights of its rows once and, for each
// step, keeps those whose choice lies in it: weights travel compressed at every M.
//
// Weights and pixels arrive by the bulk copy engine; weights before the previous kernel has ended.
// Compile with -DSPLIT=0|1 -DMODE=0|1|2, the tile shape -DMT -DNT -DWM -DWN -DWK (m16 and n8 tiles
// of a warp; warps along rows, pixels, K), -DBLOCKS (resident in one multiprocessor, at least),
// -DCLUSTERED=0|1 (K cut over a cluster), -DFLOAT_OUT=0|1 (a float tensor instead of planes) and
// -DPAIRED=0|1 (two layers in one launch).
// At batch 1 a block runs its code once, so short code matters more than fast loops.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

struct alignas(64) TensorMap {
    u64 opaque[16];
};

struct Conv {
    const unsigned char* weights;     // [row blocks][sets][taps][m16 of a block] records
    const float* scale;               // per output channel: undoes the scales of weights and input
    const float* bias;
    const u16* residual;              // like the output, or null
    void* out;                        // halves [images, pixels, rows], or float if FLOAT_OUT
    long long out_plane;              // halves between the planes of the output and the residual
    float out_scale, residual_scale;  // of the output's halves; undoes that of the residual
    int rows;                         // output channels, padding included
    int row_blocks;                   // blocks of rows, times those of a cluster
    int pixels, out_width, tiles;     // pixels of one image's output, tiles of them
    int span;                         // pixels of a tile: all it has room for, or whole rows
    int taps_h, taps_w, dilation_h, dilation_w, stride, pad_y, pad_x;
    int cut;                          // a tile lies within one row of output pixels
    int columns, halo;                // of the input tile: pixels in a row and in all
    int grid_stride;                  // stride of output pixels in the input tile
    int sets, run_log, sub_shift;     // K in sets of groups; steps of one; see pack
    int chunks, chunk_log, stages;    // K is cut into chunks of 2^chunk_log steps at every tap
    int cluster_log, share, inverse;  // pixels that each block of a cluster finishes; 65536 / share
    int receive;                      // byte offset of the sums from other blocks
    int activation;                   // 0 none, 1 relu, 2 relu6
};

// One layer, or two of which neither reads the other, whose blocks share the machine.
struct Launch {
    TensorMap map[1 + PAIRED];
    Conv conv[1 + PAIRED];
    int blocks;  // of the first
};

constexpr int BM = WM * MT * 16, BN = WN * NT * 8, THREADS = WM * WN * WK * 32;
constexpr int PLANES = SPLIT ? 2 : 1;
// A record: what one m16 tile has at one (set, tap).
constexpr int WORDS = PLANES * (MODE == 0 ? 8 : MODE == 1 ? 4 : 2);  // of values, per lane
constexpr int CHOICE_AT = WORDS * 128, META_AT = CHOICE_AT + (MODE == 2 ? 128 : 0);
constexpr int RECORD = META_AT + (MODE == 0 ? 0 : MODE == 1 ? 64 : 32), UNIT = RECORD * BM / 16;
constexpr int RED_PITCH = BM + 4;
constexpr int QUADS = BM / 4, LINES = THREADS / QUADS;

static_assert(THREADS % QUADS == 0, "a thread keeps its output channels in the epilogue");

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void barrier_init(u32 barrier) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 phase) {
    asm volatile("{\n.reg .pred p;\nagain:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}" ::"r"(barrier), "r"(phase) : "memory");
}
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, int channel, int x, int y,
                                         int image, int plane, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to), "l"(map), "r"(channel),
                 "r"(x), "r"(y), "r"(image), "r"(plane), "r"(barrier) : "memory");
}
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
template <int N> __device__ __forceinline__ void load_words(u32 (&r)[N], u32 address) {
    const u32 lane = threadIdx.x & 31;
    if constexpr (N == 2) {
        asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1])
                     : "r"(address + lane * 8) : "memory");
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4)
            asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(r[i]), "=r"(r[i + 1]), "=r"(r[i + 2]), "=r"(r[i + 3])
                         : "r"(address + i * 128 + lane * 16) : "memory");
    }
}
__device__ __forceinline__ u32 load_word(u32 address) {
    u32 word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
}
// c += a * b over the 32 channels of a step; `a` holds 16 kept columns, `meta` where they stand.
__device__ __forceinline__ void multiply_sparse(float (&c)[4], const u32 (&a)[4],
                                                const u32 (&b)[4], u32 meta) {
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, 0x0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
          "r"(meta));
}
__device__ __forceinline__ void multiply_dense(float (&c)[4], const u32* a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// All ones in each half where the two (integers written as halves) are equal.
__device__ __forceinline__ u32 equal_mask(u32 a, u32 b) {
    u32 r;
    asm("set.eq.u32.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ u32 to_halves(float low, float high) {
    u32 h;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(high), "f"(low));
    return h;
}
__device__ __forceinline__ float to_float(u16 h) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
    return v;
}
__device__ __forceinline__ void unpack4(float (&v)[4], uint2 hi, uint2 lo, float scale) {
    const u32 h[2] = {hi.x, hi.y}, l[2] = {lo.x, lo.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[i] = to_float((u16)(h[i / 2] >> (16 * (i & 1))));
        if (SPLIT) v[i] += to_float((u16)(l[i / 2] >> (16 * (i & 1))));
        v[i] *= scale;
    }
}
__device__ __forceinline__ void store4(u16* out, long long plane, const float (&v)[4],
                                       float scale) {
    float w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = v[i] * scale;
    const uint2 hi = make_uint2(to_halves(w[0], w[1]), to_halves(w[2], w[3]));
    *(uint2*)out = hi;
    if constexpr (SPLIT) {
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] -= to_float((u16)((i < 2 ? hi.x : hi.y) >> 16 * (i & 1)));
        *(uint2*)(out + plane) = make_uint2(to_halves(w[0], w[1]), to_halves(w[2], w[3]));
    }
}
__device__ __forceinline__ u32 cluster_rank() {
    u32 r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return CLUSTERED ? r : 0;
}
// Four sums to another block of the cluster, counted by its barrier.
__device__ __forceinline__ void send(u32 address, u32 barrier, u32 rank, float4 v) {
    u32 there, counter;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(barrier), "r"(rank));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], "
                 "{%1,%2,%3,%4}, [%5];" ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w),
                 "r"(counter) : "memory");
}

// Where the block stands, and how a stage of shared memory is laid out: the weights of a chunk,
// then for every group of up to 64 channels the planes of the input tile, swizzled in 1024 bytes.
struct Tile {
    int row_block, image, first, count;  // first pixel and number of pixels
    int first_y;                         // first row of the output
    int taps, units, steps;              // of one chunk: (set, tap) units, steps of each unit
    u32 weight_bytes, pitch, plane_bytes, stage_bytes;
    int groups;
};

__device__ __forceinline__ Tile make_tile(const Conv& c, int block) {
    Tile t;
    const int tile = block / c.row_blocks, row_block = block - tile * c.row_blocks;
    t.row_block = CLUSTERED ? row_block >> c.cluster_log : row_block;
    t.image = tile / c.tiles;
    t.first = (tile - t.image * c.tiles) * c.span;
    t.count = min(c.span, c.pixels - t.first);
    t.first_y = t.first / c.out_width;
    t.taps = c.taps_h * c.taps_w;
    t.units = t.taps << max(0, c.chunk_log - c.run_log);
    t.steps = 1 << min(c.chunk_log, c.run_log);
    t.weight_bytes = t.units * UNIT;
    t.pitch = c.chunk_log ? 128 : 64;
    t.groups = c.chunk_log ? 1 << (c.chunk_log - 1) : 1;
    t.plane_bytes = (c.halo * t.pitch + 1023) & ~1023;
    t.stage_bytes = ((t.weight_bytes + 1023) & ~1023) + t.groups * PLANES * t.plane_bytes;
    return t;
}

// Weights of one chunk, by one thread: the units it touches. Sets past the last are not read.
__device__ __forceinline__ void fetch_weights(const Conv& c, const Tile& t, int chunk, u32 to,
                                              u32 barrier) {
    const int first = chunk << c.chunk_log >> c.run_log;
    const int units = min(t.units, (c.sets - first) * t.taps);
    barrier_expect(barrier, units * UNIT + t.groups * PLANES * c.halo * t.pitch);
    copy_bulk(to, c.weights + ((long long)t.row_block * c.sets + first) * t.taps * UNIT,
              units * UNIT, barrier);
}

// Pixels of one chunk, by one thread of every warp, which share the boxes; the copy engine writes
// zeros for what lies outside the image.
__device__ __forceinline__ void fetch_pixels(const Conv& c, const Tile& t, const TensorMap* map,
                                             int chunk, u32 to, u32 barrier) {
    const int x = (c.cut ? t.first - t.first_y * c.out_width : 0) * c.stride - c.pad_x;
    const int y = t.first_y * c.stride - c.pad_y;
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < t.groups * PLANES; i += THREADS / 32)
        copy_box(to + i * t.plane_bytes, map, (chunk << c.chunk_log + 5) + i / PLANES * 64, x, y,
                 t.image, i % PLANES, barrier);
}

// What a lane keeps of one m16 tile at one (set, tap).
struct Weights {
    u32 values[MT][WORDS], pair[MT][2], meta[MT];
};

__device__ __forceinline__ void load_weights(Weights& w, u32 from) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
        load_words(w.values[m], from + m * RECORD);
        if constexpr (MODE == 2) {
            const u32 bytes = load_word(from + m * RECORD + CHOICE_AT + lane * 4);
            // Numbers of pairs as halves 1024 + p, whose bits are 0x6400 + p.
            w.pair[m][0] = __byte_perm(bytes, 0x64646464u, 0x4140);
            w.pair[m][1] = __byte_perm(bytes, 0x64646464u, 0x4342);
        }
        if constexpr (MODE != 0)
            w.meta[m] = load_word(from + m * RECORD + META_AT + (lane >> 2) * 4 +
                                  (MODE == 1 ? (lane & 1) * 32 : 0));
    }
}

// One step: 32 channels of every pixel. Products of one kind come together, so that sums which
// wait for each other are far apart.
__device__ __forceinline__ void step(float (&sum)[MT][NT][4], const Weights& w, u32 member,
                                     u32 next, const u32 (&address)[NT], u32 flip, u32 plane_bytes) {
    u32 b[PLANES][NT][4];
#pragma unroll
    for (int p = 0; p < PLANES; ++p)
#pragma unroll
        for (int n = 0; n < NT; ++n)
            load_matrices(b[p][n], (address[n] ^ flip) + p * plane_bytes);
    u32 a[PLANES][MT][4];
    if constexpr (MODE != 0) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u32 mask = ~0u;
                if (MODE == 2) mask = equal_mask(w.pair[m][i & 1], i < 2 ? member : next);
#pragma unroll
                for (int p = 0; p < PLANES; ++p)
                    a[p][m][i] = MODE == 2 ? w.values[m][(p * 2 + (i & 1)) % WORDS] & mask
                                           : w.values[m][(p * 4 + i) % WORDS];
            }
    }
    // Small products first: lo*hi, hi*lo, hi*hi.
#pragma unroll
    for (int product = SPLIT ? 0 : 2; product < 3; ++product) {
        const int pa = product == 0 ? PLANES - 1 : 0, pb = product == 1 ? PLANES - 1 : 0;
#pragma unroll
        for (int half = 0; half < (MODE == 0 ? 2 : 1); ++half)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    if constexpr (MODE == 0)
                        multiply_dense(sum[m][n], &w.values[m][pa * 8 + half * 4],
                                       b[pb][n][half * 2], b[pb][n][half * 2 + 1]);
                    else
                        multiply_sparse(sum[m][n], a[pa][m], b[pb][n], w.meta[m]);
                }
    }
}

// The warp's share of one chunk, in steps counted over (set, tap, step of the set).
struct Walk {
    int at, end, unit, set, tap_y, tap_x, step, first;  // first: number of the chunk's first step
};

__device__ __forceinline__ Walk start_walk(const Conv& c, const Tile& t, int chunk, int wk) {
    const int sets = c.sets - (chunk << c.chunk_log >> c.run_log);
    const int total = min(t.units, sets * t.taps) * t.steps;
    Walk w;
    w.at = wk * total / WK, w.end = (wk + 1) * total / WK;
    w.unit = w.at >> min(c.chunk_log, c.run_log), w.step = w.at & (t.steps - 1);
    w.set = w.unit / t.taps;
    const int tap = w.unit - w.set * t.taps;
    w.tap_y = tap / c.taps_w, w.tap_x = tap - w.tap_y * c.taps_w;
    w.first = (chunk << c.chunk_log) & ((1 << c.run_log) - 1);
    return w;
}

__device__ __forceinline__ void multiply(const Conv& c, const Tile& t, Walk w, int wm, u32 weights,
                                         u32 pixels, const int (&pixel)[NT],
                                         float (&sum)[MT][NT][4]) {
    const int lane = threadIdx.x & 31, run_log = min(c.chunk_log, c.run_log);
    // Groups may repeat in the 8 places of a pair's channels (fewer than 8): further pairs.
    const u32 one = 0x00010001u << (3 - c.sub_shift), k0 = 2 * (lane & 3);
    const u32 mine = 0x64006400u + (k0 >> c.sub_shift) + ((k0 + 1 >> c.sub_shift) << 16);
    const u32 pieces = t.pitch / 16 - 1;
#pragma unroll 1
    while (w.at < w.end) {
        Weights kept;
        load_weights(kept, weights + w.unit * UNIT + wm * MT * RECORD);
        // Rows of 16-byte pieces, exchanged by the copy engine's swizzle: bits 4.. ^= bits 7..
        u32 address[NT];
        const int tap = w.tap_y * c.dilation_h * c.columns + w.tap_x * c.dilation_w;
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const u32 row = (pixel[n] + tap) * t.pitch;
            address[n] = pixels + row + (((lane >> 3) ^ (row >> 7 & pieces)) << 4);
        }
        const int stop = min(t.steps, w.step + w.end - w.at);
        w.at += stop - w.step;
#pragma unroll 1
        for (; w.step < stop; ++w.step) {
            const int k = (w.set << run_log) + w.step;
            const u32 member = mine + 2 * (w.first + w.step) * one;
            u32 here[NT];
#pragma unroll
            for (int n = 0; n < NT; ++n) here[n] = address[n] + (k >> 1) * PLANES * t.plane_bytes;
            step(sum, kept, member, member + one, here, (k & 1) << 6, t.plane_bytes);
        }
        w.step = 0, ++w.unit, ++w.tap_x;
        if (w.tap_x == c.taps_w) w.tap_x = 0, ++w.tap_y;
        if (w.tap_y == c.taps_h) w.tap_y = 0, ++w.set;
    }
}

// For every n8 tile the pixel of the input tile whose row this lane hands to ldmatrix.
__device__ __forceinline__ void find_pixels(const Conv& c, const Tile& t, int wn,
                                            int (&pixel)[NT]) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        const int local = (wn * NT + n) * 8 + (threadIdx.x & 7);
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
__device__ __forceinline__ void finish(const Conv& c, long long pixel, int row, float4 sum,
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
    if (row >= c.rows) return;
    if constexpr (FLOAT_OUT) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (row + i < c.rows) ((float*)c.out)[pixel * c.rows + row + i] = v[i];
    } else {
        store4((u16*)c.out + pixel * c.rows + row, c.out_plane, v, c.out_scale);
    }
}

// Sum over the block's and the cluster's parts of K, and everything after the sum. Each pixel
// belongs to one block of the cluster, which is sent the others' sums. `hi` and `lo` are the residual
// of the thread's first pixel.
__device__ __forceinline__ void reduce(const Conv& c, const Tile& t, float* red, u32 received,
                                       u32 rank, float4 scale, float4 bias, uint2 hi,
                                       uint2 lo) {
    const int quad = threadIdx.x % QUADS, line = threadIdx.x / QUADS;
    const int row = t.row_block * BM + quad * 4;
    const int begin = CLUSTERED ? rank * c.share : 0;
    const int end = CLUSTERED ? min(begin + c.share, t.count) : t.count;
    const long long image = (long long)t.image * c.pixels + t.first;
    const auto fetch_residual = [&](int p) {
        if (c.residual == nullptr || row >= c.rows || p >= end) return;
        const u16* from = c.residual + (image + p) * c.rows + row;
        hi = *(const uint2*)from;
        if (SPLIT) lo = *(const uint2*)(from + c.out_plane);
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
        asm volatile("barrier.cluster.wait.acquire;" ::: "memory");  // every block has started
#pragma unroll 1
        for (int p = line; p < t.count; p += LINES) {
            const u32 owner = p * c.inverse >> 16, slot = rank * c.share + p - owner * c.share;
            send(receive + (slot * QUADS + quad) * 16, received, owner, block_sum(p));
        }
        if (begin < end) barrier_wait(received, 0);
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
        finish(c, image + p, row, sum, scale, bias, high, low);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    conv(const __grid_constant__ Launch launch) {
    const int second = PAIRED && blockIdx.x >= launch.blocks;
    const Conv& c = launch.conv[second];
    const TensorMap* map = &launch.map[second];
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ __align__(8) u64 barriers[4];  // a stage each, and the sums from other blocks
    const u32 rank = cluster_rank(), cluster = CLUSTERED ? 1 << c.cluster_log : 1;
    const Tile t = make_tile(c, blockIdx.x - (second ? launch.blocks : 0));
    const u32 base = shared_address(memory), ready = shared_address(barriers);
    const u32 weight_room = (t.weight_bytes + 1023) & ~1023, received = ready + 24;

    // This block's chunks are rank, rank + cluster, ...; weights do not depend on the predecessor.
    const int mine = (c.chunks - rank + cluster - 1) >> (CLUSTERED ? c.cluster_log : 0);
    // Its descriptor, scales and biases neither; on their way before the wait they cost no latency.
    if (threadIdx.x == 32) asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
    const int my_row = t.row_block * BM + threadIdx.x % QUADS * 4;
    const float4 scale = *(const float4*)(c.scale + my_row);
    const float4 bias = *(const float4*)(c.bias + my_row);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; ++i) barrier_init(ready + i * 8);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#pragma unroll 1
        for (int i = 0; i < min(mine, c.stages); ++i)
            fetch_weights(c, t, rank + i * cluster, base + i * t.stage_bytes, ready + i * 8);
        if constexpr (CLUSTERED) {
            const int owned = min((int)(rank + 1) * c.share, t.count) - (int)rank * c.share;
            if (owned > 0) barrier_expect(received, cluster * owned * BM * 4);
        }
    }
    if constexpr (CLUSTERED) asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    const int warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
    int pixel[NT];
    find_pixels(c, t, wn, pixel);
    Walk walk = start_walk(c, t, rank, wk);
    float sum[MT][NT][4] = {};
    __syncthreads();
    uint2 hi = make_uint2(0, 0), lo = hi;
    if (threadIdx.x % 32 == 0) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
#pragma unroll 1
        for (int i = 0; i < min(mine, c.stages); ++i)
            fetch_pixels(c, t, map, rank + i * cluster, base + i * t.stage_bytes + weight_room,
                         ready + i * 8);
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    }
    __syncwarp();
    if (c.residual) {
        asm volatile("griddepcontrol.wait;" ::: "memory");
        const int line = threadIdx.x / QUADS, row = t.row_block * BM + threadIdx.x % QUADS * 4;
        const int p = (CLUSTERED ? rank * c.share : 0) + line;
        if (row < c.rows && p < (CLUSTERED ? min((int)((rank + 1) * c.share), t.count) : t.count)) {
            const long long pixel = (long long)t.image * c.pixels + t.first + p;
            const u16* from = c.residual + pixel * c.rows + row;
            hi = *(const uint2*)from;
            if (SPLIT) lo = *(const uint2*)(from + c.out_plane);
        }
    }
#pragma unroll 1
    for (int i = 0, stage = 0, phase = 0; i < mine; ++i) {
        const u32 at = base + stage * t.stage_bytes;
        barrier_wait(ready + stage * 8, phase);
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
    asm volatile("griddepcontrol.wait;" ::: "memory");  // also for the residual and the output
    store_sums(sum, (float*)memory, wm, wn, wk);
    reduce(c, t, (float*)memory, received, rank, scale, bias, hi, lo);
}
