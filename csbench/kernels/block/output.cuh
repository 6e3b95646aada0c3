// How the sums of a tile leave a thread block: parts added up in a fixed order, so that results do
// not change between runs, then residual, activation, y. PRECISION as in block.cu.
#pragma once

#include "instructions.cuh"

#if PRECISION < 2
using Element = float;
constexpr Numbers kNumbers = Numbers::tf32;  // of the products, where tensor cores make them
__device__ __forceinline__ float widen(Element v) { return v; }
__device__ __forceinline__ Element narrow(float f) { return f; }
#else
using Element = u16;  // the bits of a half or a bfloat16
constexpr Numbers kNumbers = PRECISION == 2 ? Numbers::fp16 : Numbers::bf16;
__device__ __forceinline__ float widen(Element v) { return widened<kNumbers>(v); }
__device__ __forceinline__ Element narrow(float f) { return narrowed<kNumbers>(f); }
#endif

enum Activation { kNone = 0, kRelu = 1, kRelu6 = 2 };

constexpr int kPiece = 16 / int(sizeof(Element));  // elements of one 16-byte copy

struct alignas(16) Piece {
  Element v[kPiece];
};

// The sums of one piece.
struct alignas(16) PieceSums {
  float v[kPiece];
};

__device__ __forceinline__ void add(float4& total, const float4& v) {
  total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
}

// The way out of a piece of one pixel's channels. The bias is in the sums from the start.
struct Output {
  const Element* residual;
  Element* y;
  int positions, channels;
  float least, most;  // what the activation leaves

  __device__ __forceinline__ Output(const Element* residual_, Element* y_, int positions_,
                                    int channels_, int activation)
      : residual(residual_), y(y_), positions(positions_), channels(channels_),
        least(activation == kNone ? -__uint_as_float(0x7f800000u) : 0.0f),
        most(activation == kRelu6 ? 6.0f : __uint_as_float(0x7f800000u)) {}

  __device__ __forceinline__ bool inside(int flat, int channel) const {
    return flat < positions && channel < channels;
  }

  __device__ __forceinline__ float activated(float v) const {
    return min_or_nan(max_or_nan(v, least), most);
  }

  // The residual of a tile on its way to L2, long before it is read.
  template <int kPixels, int kRows, int kThreads>
  __device__ __forceinline__ void prefetch(int first_pixel, int first_channel, int thread) const {
    constexpr int kLine = 128 / int(sizeof(Element)), kLines = (kRows + kLine - 1) / kLine;
    if (!residual) return;
    for (int i = thread; i < kPixels * kLines; i += kThreads) {
      const int flat = first_pixel + i / kLines, channel = first_channel + i % kLines * kLine;
      if (inside(flat, channel))
        prefetch_line(residual + static_cast<long long>(flat) * channels + channel);
    }
  }

  __device__ __forceinline__ Piece extra(int flat, int channel) const {
    Piece piece{};
    if (residual && inside(flat, channel)) {
      const Element* from = residual + static_cast<long long>(flat) * channels + channel;
      if (channels % kPiece == 0)
        piece = *reinterpret_cast<const Piece*>(from);
      else
        for (int e = 0; e < kPiece; ++e)
          if (channel + e < channels) piece.v[e] = from[e];
    }
    return piece;
  }

  __device__ __forceinline__ void write(int flat, int channel, const PieceSums& sums,
                                        const Piece& more) const {
    if (!inside(flat, channel)) return;
    Piece piece;
#pragma unroll
    for (int e = 0; e < kPiece; ++e) {
      const float v = residual ? sums.v[e] + widen(more.v[e]) : sums.v[e];
      piece.v[e] = narrow(activated(v));
    }
    Element* to = y + static_cast<long long>(flat) * channels + channel;
    if (channels % kPiece == 0)
      *reinterpret_cast<Piece*>(to) = piece;
    else
      for (int e = 0; e < kPiece; ++e)
        if (channel + e < channels) to[e] = piece.v[e];
  }
};

// The sums of a tile of kPixels x kRows in shared memory, in kParts parts of this thread block and
// as many of every peer in its cluster. Each block of the cluster writes its part of the tile.
// kEarly: the first residuals are read into registers long before they are added.
template <int kPixels, int kRows, int kParts, int kThreads, int kPad, bool kEarly>
struct PartialSums {
  static constexpr int kStride = kRows + kPad;  // of a pixel, in floats
  static constexpr int kBytes = kParts * kPixels * kStride * 4;
  static constexpr int kPieces = kRows / kPiece, kAll = kPixels * kPieces;
  static constexpr int kEach = kAll / kThreads;
  static constexpr int kBatch = kEach < 1 ? 1 : kEach > 4 ? 4 : kEach;

  const Output& output;
  float* shared;
  int thread, rank, peers, first_pixel, first_channel;
  Piece more[kBatch];

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
      more[n] = i < kAll
                    ? output.extra(first_pixel + i / kPieces, first_channel + i % kPieces * kPiece)
                    : Piece{};
    }
  }

  __device__ __forceinline__ float* at(int i) const {
    return shared + i / kPieces * kStride + i % kPieces * kPiece;
  }

  // Parts of this block, or what each peer has in its first part.
  __device__ __forceinline__ PieceSums sum(int i, bool of_peers) const {
    PieceSums total;
#pragma unroll
    for (int q = 0; q < kPiece; q += 4) {
      float4& four = *reinterpret_cast<float4*>(total.v + q);
      if (of_peers) {
        four = load_remote(address_in_shared(at(i) + q), 0);
        for (int peer = 1; peer < peers; ++peer) add(four, load_remote(address_in_shared(at(i) + q), peer));
      } else {
        four = *reinterpret_cast<const float4*>(at(i) + q);
#pragma unroll
        for (int n = 1; n < kParts; ++n)
          add(four, *reinterpret_cast<const float4*>(at(i) + q + n * kPixels * kStride));
      }
    }
    return total;
  }

  // Called by all threads once every part is stored.
  __device__ __forceinline__ void write() {
    __syncthreads();
    if (peers > 1) {
      if (kParts > 1)
        for (int i = thread; i < kAll; i += kThreads) {
          const PieceSums total = sum(i, false);
#pragma unroll
          for (int q = 0; q < kPiece; q += 4)
            *reinterpret_cast<float4*>(at(i) + q) = *reinterpret_cast<const float4*>(total.v + q);
        }
      cluster_sync();
    }
    for (int base = start(); base < kAll; base += kBatch * peers * kThreads) {
      if (!kEarly || base != start()) fetch(base);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int i = base + n * peers * kThreads;
        if (i >= kAll) break;
        output.write(first_pixel + i / kPieces, first_channel + i % kPieces * kPiece,
                     sum(i, peers > 1), more[n]);
      }
    }
    if (peers > 1) cluster_sync();  // a peer may still be reading this block's sums
  }
};
