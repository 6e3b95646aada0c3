// The first layer at small batch and the max pooling after it, from torch's image to planes.
//
// A block makes TILE_Y x TILE_X pooled pixels of 64 rows. It reads their patch of the image once, as
// halves with channels last, where the window of an output pixel is KERNEL_H runs of neighbours:
// the lanes of a tensor core read them in place, so nothing is packed. Runs are padded to 8 places
// of zero weights. Sums are pooled before scale, bias and activation, which rise with them.
// Compile with -DSPLIT=0|1 (see conv.cu), -DHALF_IN=0|1, -DCHANNELS, -DKERNEL_H
// -DKERNEL_W -DPAD_Y -DPAD_X; the stride is 2, the pooling 3x3 with stride 2 and padding 1.

#include "latency/common.cuh"

struct Stem {
    const void* x;
    const unsigned char* weights;  // [64 rows][step][m16][plane] fragments of m16n8k16
    const float *scale, *bias;     // per output channel: undoes the scales of weights and input
    u16* out;
    long long out_plane, image_step, channel_step, row_step, column_step;  // in elements
    float x_scale, out_scale;
    int height, width, conv_height, conv_width, out_height, out_width;
    int rows, tiles_x;  // output channels, padding included; tiles in a row
    int activation;     // 0 none, 1 relu, 2 relu6
};

constexpr int TILE_Y = 4, TILE_X = 7, CONV_Y = 2 * TILE_Y + 1, CONV_X = 2 * TILE_X + 1;
constexpr int PIXELS = CONV_Y * CONV_X, WN = 4, NT = (PIXELS + 8 * WN - 1) / (8 * WN), MT = 2;
constexpr int THREADS = 2 * WN * 32;
constexpr int RUN = (KERNEL_W * CHANNELS + 7) / 8, EIGHTS = KERNEL_H * RUN, STEPS = (EIGHTS + 1) / 2;
constexpr int PATCH_Y = 2 * (CONV_Y - 1) + KERNEL_H;
constexpr int COLUMNS = (2 * CHANNELS * (CONV_X - 1) + 8 * RUN + CHANNELS - 1) / CHANNELS;
constexpr int PITCH = (COLUMNS * CHANNELS + 7) / 8 * 8, PATCH = PATCH_Y * PITCH;  // in halves
constexpr int WEIGHTS = STEPS * 4 * PLANES * 512, SUMS_AT = WEIGHTS + PLANES * PATCH * 2;
constexpr int SUMS_PITCH = 68;
static_assert(PATCH % 8 == 0, "sums begin at 16 bytes");

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The patch from (top, left) on as [plane][row][column, channel], zeros outside the image.
__device__ __forceinline__ void read_patch(const Stem& s, u16* patch, int top, int left) {
    constexpr int ALL = CHANNELS * PATCH_Y * COLUMNS, EACH = (ALL + THREADS - 1) / THREADS;
    const long long image = blockIdx.z * s.image_step;
    float v[EACH];
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int i = threadIdx.x + j * THREADS, line = i / COLUMNS, x = left + i % COLUMNS;
        const int channel = line / PATCH_Y, y = top + line % PATCH_Y;
        v[j] = 0.f;
        if (i < ALL && (unsigned)y < (unsigned)s.height && (unsigned)x < (unsigned)s.width) {
            const long long from =
                image + channel * s.channel_step + y * s.row_step + x * s.column_step;
            v[j] = HALF_IN ? to_float(((const u16*)s.x)[from]) : ((const float*)s.x)[from];
        }
    }
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int i = threadIdx.x + j * THREADS, line = i / COLUMNS;
        if (i >= ALL) break;
        u16* to = patch + line % PATCH_Y * PITCH + i % COLUMNS * CHANNELS + line / PATCH_Y;
        const float scaled = v[j] * s.x_scale;
        to[0] = to_half(scaled);
        if (SPLIT) to[PATCH] = to_half(scaled - to_float(to_half(scaled)));
    }
}

// Sums of 32 rows (wm) and NT x 8 output pixels (wn), left in shared memory as [pixel][row].
__device__ __forceinline__ void convolve(const unsigned char* weights, const u16* patch,
                                         float* sums) {
    const int lane = threadIdx.x % 32, wm = threadIdx.x / 32 % 2, wn = threadIdx.x / 64;
    const u16* pixel[NT];
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        const int p = min((wn * NT + n) * 8 + lane / 4, PIXELS - 1);
        pixel[n] = patch + p / CONV_X * 2 * PITCH + p % CONV_X * 2 * CHANNELS + 2 * (lane % 4);
    }
    float sum[MT][NT][4] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        u32 a[PLANES][MT][4], b[PLANES][NT][2];
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int p = 0; p < PLANES; ++p) {
                const int at = ((step * 4 + wm * MT + m) * PLANES + p) * 512 + lane * 16;
                const uint4 w = *(const uint4*)(weights + at);
                a[p][m][0] = w.x, a[p][m][1] = w.y, a[p][m][2] = w.z, a[p][m][3] = w.w;
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            // Past the last eight, weights are zero: any pixels will do.
            const int eight = min(2 * step + half, EIGHTS - 1);
            const int at = eight / RUN * PITCH + eight % RUN * 8;
#pragma unroll
            for (int p = 0; p < PLANES; ++p)
#pragma unroll
                for (int n = 0; n < NT; ++n)
                    b[p][n][half] = *(const u32*)(pixel[n] + p * PATCH + at);
        }
        // Small products first: lo*hi, hi*lo, hi*hi.
#pragma unroll
        for (int product = SPLIT ? 0 : 2; product < 3; ++product)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int m = 0; m < MT; ++m)
                    multiply(sum[m][n], a[product == 0 ? PLANES - 1 : 0][m],
                             b[product == 1 ? PLANES - 1 : 0][n]);
    }
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int p = (wn * NT + n) * 8 + 2 * (lane % 4) + i % 2;
                const int row = (wm * MT + m) * 16 + i / 2 * 8 + lane / 4;
                if (p < PIXELS) sums[p * SUMS_PITCH + row] = sum[m][n][i];
            }
}

// The largest of each window of sums, and everything after the sum; a thread takes four rows.
__device__ __forceinline__ void pool(const Stem& s, const float* sums, int first_y, int first_x) {
    const int quad = threadIdx.x % 16 * 4, row = blockIdx.y * 64 + quad;
    if (row >= s.rows) return;
    const float4 scale = *(const float4*)(s.scale + row), bias = *(const float4*)(s.bias + row);
    const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
    const float biases[4] = {bias.x, bias.y, bias.z, bias.w};
#pragma unroll 1
    for (int i = threadIdx.x / 16; i < TILE_Y * TILE_X; i += THREADS / 16) {
        const int y = first_y + i / TILE_X, x = first_x + i % TILE_X;
        if (y >= s.out_height || x >= s.out_width) continue;
        float best[4] = {-__int_as_float(0x7f800000), -__int_as_float(0x7f800000),
                         -__int_as_float(0x7f800000), -__int_as_float(0x7f800000)};
#pragma unroll
        for (int k = 0; k < 9; ++k) {
            // A place outside reads the nearest pixel inside, which is in the window as well.
            const int in_y = min(max(2 * y - 1 + k / 3, 0), s.conv_height - 1);
            const int in_x = min(max(2 * x - 1 + k % 3, 0), s.conv_width - 1);
            const int p = (in_y - 2 * first_y + 1) * CONV_X + in_x - 2 * first_x + 1;
            const float4 v = *(const float4*)(sums + p * SUMS_PITCH + quad);
            const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int j = 0; j < 4; ++j)
                asm("max.NaN.f32 %0, %0, %1;" : "+f"(best[j]) : "f"(values[j]));  // as in torch
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            best[j] = best[j] * scales[j] + biases[j];
            if (s.activation && best[j] < 0.f) best[j] = 0.f;
            if (s.activation == 2 && best[j] > 6.f) best[j] = 6.f;
            best[j] *= s.out_scale;
        }
        const long long at = ((long long)blockIdx.z * s.out_height + y) * s.out_width + x;
        store4(s.out + at * s.rows + row, s.out_plane, best);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) stem(const __grid_constant__ Stem s) {
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ __align__(8) u64 ready;
    u16* patch = (u16*)(memory + WEIGHTS);
    float* sums = (float*)(memory + SUMS_AT);
    const int first_y = blockIdx.x / s.tiles_x * TILE_Y, first_x = blockIdx.x % s.tiles_x * TILE_X;
    if (threadIdx.x == 0)
        fetch(shared_address(memory), s.weights + (long long)blockIdx.y * WEIGHTS, WEIGHTS,
              shared_address(&ready));
    asm volatile("griddepcontrol.wait;" ::: "memory");
    read_patch(s, patch, 2 * (2 * first_y - 1) - PAD_Y, 2 * (2 * first_x - 1) - PAD_X);
    __syncthreads();
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    fetched(shared_address(&ready));
    convolve(memory, patch, sums);
    __syncthreads();
    pool(s, sums, first_y, first_x);
}
