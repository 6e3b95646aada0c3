// A layer as latency/conv.cu is told of it, where a block stands, and the instructions around it.
#pragma once

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
    // MODE 3 only
    int weight_room;    // bytes of the most records of a unit in a chunk
    const int* starts;  // [units][chunks + 1] first record of each unit and chunk
    const int* places;  // of each row among the channels of the output, -1 for none
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
constexpr int WORDS = PLANES * (MODE == 0 ? 8 : MODE == 2 ? 2 : 4);  // of values, per lane
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
__device__ __forceinline__ void multiply_dense(float (&c)[4], const u32* a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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
    t.weight_bytes = MODE == 3 ? WM * c.weight_room : t.units * UNIT;
    t.pitch = c.chunk_log ? 128 : 64;
    t.groups = c.chunk_log ? 1 << (c.chunk_log - 1) : 1;
    t.plane_bytes = (c.halo * t.pitch + 1023) & ~1023;
    t.stage_bytes = ((t.weight_bytes + 1023) & ~1023) + t.groups * PLANES * t.plane_bytes;
    return t;
}
