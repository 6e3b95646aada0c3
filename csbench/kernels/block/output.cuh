// How the sums of a tile leave a thread block: parts added up in a fixed order, so that results do
// not change between runs, then residual, activation, y. PRECISION as in block.cu.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;

#if PRECISION < 2
using Element = float;
#else
using Element = u16;  // the bits of a half or a bfloat16
#endif

__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

// ---- clusters (a cluster of one before Hopper)
__device__ __forceinline__ int cluster_rank() {
  int rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ __forceinline__ int cluster_size() {
  int size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ float4 load_from(const float* p, int rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(there)
               : "memory");
  return v;
#else
  return *reinterpret_cast<const float4*>(p);
#endif
}

// ---- from and to the type of the activations
__device__ __forceinline__ float widen(Element v) {
#if PRECISION < 2
  return v;
#elif PRECISION == 2
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
#else
  return __uint_as_float(static_cast<u32>(v) << 16);
#endif
}
__device__ __forceinline__ Element narrow(float f) {
#if PRECISION < 2
  return f;
#elif PRECISION == 2
  u16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
#else
  u16 v;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
#endif
}

// Written so that NaN stays NaN.
__device__ __forceinline__ float activate(float v, int activation) {
  if (activation >= 1 && v < 0.0f) v = 0.0f;
  if (activation == 2 && v > 6.0f) v = 6.0f;
  return v;
}

struct alignas(4 * sizeof(Element)) Four {
  Element v[4];
};

__device__ __forceinline__ void add(float4& total, const float4& v) {
  total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
}

// The way out of four channels' sums of one pixel. The bias is in the sums from the start.
struct Output {
  const Element* residual;
  Element* y;
  int positions, channels, activation;

  __device__ __forceinline__ bool inside(int flat, int channel) const {
    return flat < positions && channel < channels;
  }

  __device__ __forceinline__ Four extra(int flat, int channel) const {
    Four four{};
    if (residual && inside(flat, channel)) {
      const Element* from = residual + static_cast<long long>(flat) * channels + channel;
      if (channels % 4 == 0)
        four = *reinterpret_cast<const Four*>(from);
      else
        for (int e = 0; e < 4; ++e)
          if (channel + e < channels) four.v[e] = from[e];
    }
    return four;
  }

  __device__ __forceinline__ void write(int flat, int channel, float4 sums, Four more) const {
    if (!inside(flat, channel)) return;
    const float total[4] = {sums.x, sums.y, sums.z, sums.w};
    Four four;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      four.v[e] = narrow(activate(total[e] + (residual ? widen(more.v[e]) : 0.0f), activation));
    Element* to = y + static_cast<long long>(flat) * channels + channel;
    if (channels % 4 == 0)
      *reinterpret_cast<Four*>(to) = four;
    else
      for (int e = 0; e < 4; ++e)
        if (channel + e < channels) to[e] = four.v[e];
  }
};

// The sums of a tile of kPixels x kRows in shared memory, in kParts parts of this thread block and
// as many of every peer in its cluster. Each block of the cluster writes its part of the tile.
// kEarly: the residual is read into registers long before it is added.
template <int kPixels, int kRows, int kParts, int kThreads, int kPad, bool kEarly>
struct PartialSums {
  static constexpr int kStride = kRows + kPad;  // of a pixel, in floats
  static constexpr int kBytes = kParts * kPixels * kStride * 4;
  static constexpr int kFours = kRows / 4, kAll = kPixels * kFours;
  static constexpr int kEach = kAll / kThreads;
  static constexpr int kBatch = kEach < 1 ? 1 : kEach > 4 ? 4 : kEach;

  const Output& output;
  float* shared;
  int thread, rank, peers, first_pixel, first_channel;
  Four more[kBatch];

  __device__ __forceinline__ PartialSums(const Output& output_, void* shared_, int thread_,
                                         int first_pixel_, int first_channel_)
      : output(output_), shared(static_cast<float*>(shared_)), thread(thread_),
        rank(cluster_rank()), peers(cluster_size()), first_pixel(first_pixel_),
        first_channel(first_channel_) {}

  __device__ __forceinline__ float* part(int n) const { return shared + n * kPixels * kStride; }
  __device__ __forceinline__ int start() const { return rank * kThreads + thread; }

  __device__ __forceinline__ void fetch_early() {
    if (kEarly) fetch(start());
  }

  // All of a batch is on its way before the first is used.
  __device__ __forceinline__ void fetch(int base) {
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int i = base + n * peers * kThreads;
      more[n] = i < kAll ? output.extra(first_pixel + i / kFours, first_channel + i % kFours * 4)
                         : Four{};
    }
  }

  __device__ __forceinline__ float* at(int i) const {
    return shared + i / kFours * kStride + i % kFours * 4;
  }

  __device__ __forceinline__ float4 sum_of_parts(int i) const {
    float4 total = *reinterpret_cast<const float4*>(at(i));
#pragma unroll
    for (int n = 1; n < kParts; ++n)
      add(total, *reinterpret_cast<const float4*>(at(i) + n * kPixels * kStride));
    return total;
  }

  __device__ __forceinline__ float4 sum_of_peers(int i) const {
    float4 total = load_from(at(i), 0);
    for (int peer = 1; peer < peers; ++peer) add(total, load_from(at(i), peer));
    return total;
  }

  // Called by all threads once every part is stored.
  __device__ __forceinline__ void write() {
    __syncthreads();
    if (peers > 1) {
      if (kParts > 1)
        for (int i = thread; i < kAll; i += kThreads)
          *reinterpret_cast<float4*>(at(i)) = sum_of_parts(i);
      cluster_sync();
    }
    for (int base = start(); base < kAll; base += kBatch * peers * kThreads) {
      if (!kEarly || base != start()) fetch(base);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int i = base + n * peers * kThreads;
        if (i >= kAll) break;
        output.write(first_pixel + i / kFours, first_channel + i % kFours * 4,
                     peers == 1 ? sum_of_parts(i) : sum_of_peers(i), more[n]);
      }
    }
    if (peers > 1) cluster_sync();  // a peer may still be reading this block's sums
  }
};
