// SR-STE's work on all sparse layers, one launch each: keep the N largest of every M weights, and
// decay the others. Compile with -DM=1..16, the members of a group. Weights and masks lie in two flat
// buffers, the members of a group `stride` elements apart; the layers' copies and gradients are
// tensors of their own. A block takes its piece of one layer from the work list.

typedef unsigned char u8;
typedef unsigned short u16;

constexpr int THREADS = 256, EACH = 16 / M;                // groups of a thread
constexpr int WIDE = M % 4 == 0 ? 4 : M % 2 == 0 ? 2 : 1;  // elements that are aligned together

struct Work {
    int layer, begin, stride;  // `begin`: the layer's first element in the flat buffers
    int first, end;            // its groups that the block takes, at most THREADS * EACH
};
struct Tensors {
    void* of[256];  // by layer
};
struct Half { u16 bits; };
struct BFloat { u16 bits; };
template <typename T> struct alignas(WIDE * sizeof(T)) Pack { T at[WIDE]; };

__device__ __forceinline__ void round_to(float& out, float v) { out = v; }
__device__ __forceinline__ void round_to(Half& out, float v) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
}
__device__ __forceinline__ void round_to(BFloat& out, float v) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
}

template <bool NEIGHBOURS, typename T>
__device__ __forceinline__ void load(T (&v)[M], const T* from, int stride) {
#pragma unroll
    for (int i = 0; i < M; i += NEIGHBOURS ? WIDE : 1) {
        if (NEIGHBOURS) {
            const Pack<T> pack = *(const Pack<T>*)(from + i);
#pragma unroll
            for (int j = 0; j < WIDE; ++j) v[i + j] = pack.at[j];
        } else {
            v[i] = from[i * stride];
        }
    }
}
template <bool NEIGHBOURS, typename T>
__device__ __forceinline__ void store(T* to, const T (&v)[M], int stride) {
#pragma unroll
    for (int i = 0; i < M; i += NEIGHBOURS ? WIDE : 1) {
        if (NEIGHBOURS) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) pack.at[j] = v[i + j];
            *(Pack<T>*)(to + i) = pack;
        } else {
            to[i * stride] = v[i];
        }
    }
}

// Whether each member is among the n largest magnitudes of its group; a tie is won by the first.
__device__ __forceinline__ void choose(u8 (&kept)[M], const float (&v)[M], int n) {
#pragma unroll
    for (int i = 0; i < M; ++i) {
        int ahead = 0;
#pragma unroll
        for (int j = 0; j < M; ++j)
            if (j != i) ahead += j < i ? fabsf(v[j]) >= fabsf(v[i]) : fabsf(v[j]) > fabsf(v[i]);
        kept[i] = ahead < n;
    }
}

template <bool NEIGHBOURS, typename T>
__device__ __forceinline__ void hide(
    const float* __restrict__ flat, u8* __restrict__ mask, T* __restrict__ copy, Work work, int n) {
    float v[EACH][M];
    int at[EACH];
    flat += work.begin, mask += work.begin;
#pragma unroll
    for (int e = 0; e < EACH; ++e) {  // all loads before the first use
        const int group = min(work.first + e * THREADS + (int)threadIdx.x, work.end - 1);
        at[e] = NEIGHBOURS ? group * M
                           : group / work.stride * M * work.stride + group % work.stride;
        load<NEIGHBOURS>(v[e], flat + at[e], work.stride);
    }
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
        if (work.first + e * THREADS + (int)threadIdx.x >= work.end) return;
        u8 kept[M];
        T values[M];
        choose(kept, v[e], n);
#pragma unroll
        for (int i = 0; i < M; ++i) round_to(values[i], kept[i] ? v[e][i] : 0.0f);
        store<NEIGHBOURS>(mask + at[e], kept, work.stride);
        store<NEIGHBOURS>(copy + at[e], values, work.stride);
    }
}

// Masks by the magnitude of the weights, and into each layer's copy the weights as masked.
#define HIDE(NAME, T)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                 \
        NAME(const float* flat, u8* mask, const Work* list, int n,                        \
             const __grid_constant__ Tensors copies) {                                    \
        const Work work = list[blockIdx.x];                                               \
        if (work.stride == 1) hide<true>(flat, mask, (T*)copies.of[work.layer], work, n); \
        else hide<false>(flat, mask, (T*)copies.of[work.layer], work, n);                 \
    }
HIDE(hide_float32, float)
HIDE(hide_float16, Half)
HIDE(hide_bfloat16, BFloat)

// gradient += rate * weight where the weight is left out; a layer without gradient is passed over.
extern "C" __global__ void __launch_bounds__(THREADS) decay(
    const float* flat, const u8* mask, const Work* list, float rate,
    const __grid_constant__ Tensors gradients) {
    const Work work = list[blockIdx.x];
    float* gradient = (float*)gradients.of[work.layer];
    if (!gradient) return;
    constexpr int PIECES = EACH * M / WIDE;
    Pack<float> weight[PIECES], sum[PIECES];
    Pack<u8> kept[PIECES];
    flat += work.begin, mask += work.begin;
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
        const int at = work.first * M + (p * THREADS + (int)threadIdx.x) * WIDE;
        if (at >= work.end * M) break;
        weight[p] = *(const Pack<float>*)(flat + at);
        sum[p] = *(const Pack<float>*)(gradient + at);
        kept[p] = *(const Pack<u8>*)(mask + at);
    }
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
        const int at = work.first * M + (p * THREADS + (int)threadIdx.x) * WIDE;
        if (at >= work.end * M) break;
#pragma unroll
        for (int i = 0; i < WIDE; ++i)
            if (!kept[p].at[i]) sum[p].at[i] += rate * weight[p].at[i];
        *(Pack<float>*)(gradient + at) = sum[p];
    }
}
