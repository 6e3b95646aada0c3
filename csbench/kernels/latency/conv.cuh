// A layer as latency/conv.cu is told of it, and where a block stands.
#pragma once
#include "latency/primitives.cuh"

struct Conv {
    const unsigned char* weights;     // [row blocks][sets][taps][m16 of a block] records, or vectors
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
    int unit_bytes;     // of the most records of a unit of 32 rows in a chunk
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
// A record of MODE 0 to 2: what one m16 tile has at one (set, tap). MODE 3 has its own.
constexpr int WORDS = PLANES * (MODE == 0 ? 8 : MODE == 2 ? 2 : 4);  // of values, per lane
constexpr int CHOICE_AT = WORDS * 128, META_AT = CHOICE_AT + (MODE == 2 ? 128 : 0);
constexpr int RECORD = META_AT + (MODE == 0 ? 0 : MODE == 1 ? 64 : 32), UNIT = RECORD * BM / 16;
constexpr int RED_PITCH = BM + 4;
constexpr int QUADS = BM / 4, LINES = THREADS / QUADS;

static_assert(THREADS % QUADS == 0, "a thread keeps its output channels in the epilogue");

// Where the block stands, and how a stage of shared memory is laid out: the weights of a chunk,
// then for every group of up to 64 channels the planes of the input tile, swizzled in 1024 bytes.
struct Tile {
    int row_block, image, first, count;  // first pixel and number of pixels
    int first_y;                         // first row of the output
    int taps, units, steps;              // of one chunk: (set, tap) units, their steps (not MODE 3)
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
    t.weight_bytes = MODE == 3 ? WM * c.unit_bytes : t.units * UNIT;
    t.pitch = c.chunk_log ? 128 : 64;
    t.groups = c.chunk_log ? 1 << (c.chunk_log - 1) : 1;
    t.plane_bytes = (c.halo * t.pitch + 1023) & ~1023;
    t.stage_bytes = ((t.weight_bytes + 1023) & ~1023) + t.groups * PLANES * t.plane_bytes;
    return t;
}
