// Between torch's tensors and the planes of latency/conv.cu, and pooling on planes.
// Compile with -DSPLIT=0|1. Planes are [images, height, width, stride] halves in some order of
// channels, stride a multiple of 32, padding zero; the second plane of the fp32 class holds what the
// first rounded away. Both are of x times a power of two, which pooling keeps.

typedef unsigned int u32;
typedef unsigned short u16;

__device__ __forceinline__ u16 to_half(float v) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    return h;
}
__device__ __forceinline__ float to_float(u32 h) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"((u16)h));
    return v;
}
template <int N> __device__ __forceinline__ void store(u16* out, long long plane, const float (&v)[N]) {
    u32 hi[N / 2] = {}, lo[N / 2] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const u16 h = to_half(v[i]), l = to_half(v[i] - to_float(h));
        hi[i / 2] |= (u32)h << 16 * (i & 1), lo[i / 2] |= (u32)l << 16 * (i & 1);
    }
#pragma unroll
    for (int i = 0; i < N / 2; i += 2) {
        *(uint2*)(out + 2 * i) = make_uint2(hi[i], hi[i + 1]);
        if (SPLIT) *(uint2*)(out + plane + 2 * i) = make_uint2(lo[i], lo[i + 1]);
    }
}
__device__ __forceinline__ void load4(float (&v)[4], const u16* x, long long plane) {
    const uint2 hi = *(const uint2*)x;
    const uint2 lo = SPLIT ? *(const uint2*)(x + plane) : make_uint2(0, 0);
    const u32 h[2] = {hi.x, hi.y}, l[2] = {lo.x, lo.y};
#pragma unroll
    for (int i = 0; i < 4; ++i)
        v[i] = to_float(h[i / 2] >> 16 * (i & 1)) + to_float(l[i / 2] >> 16 * (i & 1));
}
__device__ __forceinline__ void wait_for_predecessor() {
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
}

struct Pack {
    const void* x;
    u16* out;
    const int* source;  // for each stored channel which of (dy, dx, channel) it takes, or -1
    long long plane, image_step, channel_step, row_step, column_step;  // strides of x in elements
    float scale;
    int half, images, channels, height, width;
    int window_y, window_x, step, origin_x, out_height, out_width, stride;
    int octet_fast;  // threads run over channels first (NHWC), else over pixels
};

// x of any strides to planes. Each output pixel takes a window of pixels as channels (dy, dx, c),
// zeros outside, which makes a strided stem of few channels a plain convolution of many.
extern "C" __global__ void __launch_bounds__(128) pack(const __grid_constant__ Pack p) {
    wait_for_predecessor();
    const int octets = p.stride / 8, pixels = p.out_height * p.out_width, all = p.images * pixels;
    const int id = blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= all * octets) return;
    const int at = p.octet_fast ? id / octets : id % all;
    const int octet = p.octet_fast ? id - at * octets : id / all;
    const int image = at / pixels, pixel = at - image * pixels;
    const int y = pixel / p.out_width, x = pixel - y * p.out_width;
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int k = p.source[octet * 8 + i], place = max(k, 0) / p.channels;
        const int channel = k - place * p.channels, dy = place / p.window_x;
        const int from_y = y * p.step + dy, from_x = x * p.step + place - dy * p.window_x + p.origin_x;
        const bool inside = k >= 0 && from_y < p.height && (unsigned)from_x < (unsigned)p.width;
        const long long from = image * p.image_step + channel * p.channel_step +
                               from_y * p.row_step + from_x * p.column_step;
        v[i] = 0.f;
        if (inside)
            v[i] = p.scale * (p.half ? to_float(((const u16*)p.x)[from]) : ((const float*)p.x)[from]);
    }
    store(p.out + (long long)at * p.stride + octet * 8, p.plane, v);
}

struct Pool {
    const u16* x;
    u16* out;
    long long plane, out_plane;
    int images, height, width, stride;  // stride: halves between pixels
    int out_height, out_width, window_y, window_x, step_y, step_x, pad_y, pad_x;
};

// The largest of a window of WY x WX pixels, whose loads do not wait for each other.
template <int WY, int WX>
__device__ __forceinline__ void window_max(const Pool& p, float (&best)[4], int image, int from_y,
                                           int from_x, int quad) {
    float v[WY * WX][4];
#pragma unroll
    for (int i = 0; i < WY * WX; ++i) {
        const int y = from_y + i / WX, x = from_x + i % WX;
        // A place outside reads the nearest pixel inside, which is in the window as well.
        const int in_y = min(max(y, 0), p.height - 1), in_x = min(max(x, 0), p.width - 1);
        load4(v[i], p.x + (((long long)image * p.height + in_y) * p.width + in_x) * p.stride +
                        quad * 4, p.plane);
    }
#pragma unroll
    for (int i = 0; i < WY * WX; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k)
            asm("max.NaN.f32 %0, %0, %1;" : "+f"(best[k]) : "f"(v[i][k]));  // NaN wins, as in torch
}

extern "C" __global__ void __launch_bounds__(128) max_pool(const __grid_constant__ Pool p) {
    wait_for_predecessor();
    const int quads = p.stride / 4, pixels = p.out_height * p.out_width;
    const int id = blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= p.images * pixels * quads) return;
    const int at = id / quads, quad = id - at * quads, image = at / pixels;
    const int y = (at - image * pixels) / p.out_width, x = at - image * pixels - y * p.out_width;
    const int from_y = y * p.step_y - p.pad_y, from_x = x * p.step_x - p.pad_x;
    const float lowest = -__int_as_float(0x7f800000);
    float best[4] = {lowest, lowest, lowest, lowest};
    if (p.window_y == 3 && p.window_x == 3) {
        window_max<3, 3>(p, best, image, from_y, from_x, quad);
    } else {
        for (int dy = 0; dy < p.window_y; ++dy)
            for (int dx = 0; dx < p.window_x; ++dx)
                window_max<1, 1>(p, best, image, from_y + dy, from_x + dx, quad);
    }
    store(p.out + (long long)at * p.stride + quad * 4, p.out_plane, best);
}

// Mean over all pixels of an image: a block takes 32 channels, its threads the pixels.
extern "C" __global__ void __launch_bounds__(256) mean_pool(const __grid_constant__ Pool p) {
    __shared__ float4 sums[8][8];
    const int quad = threadIdx.x % 8, lane = threadIdx.x / 8, channel = (blockIdx.x * 8 + quad) * 4;
    const int image = blockIdx.y, pixels = p.height * p.width;
    wait_for_predecessor();
    float sum[4] = {0, 0, 0, 0};
    if (channel < p.stride)
        for (int at = lane; at < pixels; at += 32) {
            float v[4];
            load4(v, p.x + ((long long)image * pixels + at) * p.stride + channel, p.plane);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += v[i];
        }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum[i] += __shfl_xor_sync(~0u, sum[i], 8);
        sum[i] += __shfl_xor_sync(~0u, sum[i], 16);
    }
    if (threadIdx.x % 32 < 8)
        sums[threadIdx.x / 32][quad] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    __syncthreads();
    if (threadIdx.x < 8 && channel < p.stride) {
        float total[4] = {0, 0, 0, 0};
        for (int w = 0; w < 8; ++w) {
            const float4 s = sums[w][quad];
            total[0] += s.x, total[1] += s.y, total[2] += s.z, total[3] += s.w;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) total[i] /= (float)pixels;
        store(p.out + (long long)image * p.stride + channel, p.out_plane, total);
    }
}

struct Unpack {
    const u16* x;
    float* out;
    const int* place;  // for each channel where it is stored
    long long plane;
    float unscale;
    int pixels, channels, stride;
};

// Planes to float [pixels, channels].
extern "C" __global__ void __launch_bounds__(128) unpack(const __grid_constant__ Unpack p) {
    wait_for_predecessor();
    const long long id = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (long long)p.pixels * p.channels) return;
    const long long pixel = id / p.channels, at = pixel * p.stride + p.place[id - pixel * p.channels];
    const float lo = SPLIT ? to_float(p.x[p.plane + at]) : 0.f;
    p.out[id] = (to_float(p.x[at]) + lo) * p.unscale;
}
