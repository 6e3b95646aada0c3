// Multiplying: a record with the gathered channels of its stage.
#pragma once
#include "gather/shape.cuh"

struct Record {
  u32 weights[kPlanes][2 * kN];
  u32 row;  // where this lane's row lies in the stage, and marks

  // Of all lanes: the record is a stage's last one, has no weights; of this one: the row lies in
  // the next stage. See pack.py.
  __device__ __forceinline__ bool ends() const { return row >> 15; }
  __device__ __forceinline__ bool empty() const { return row & 2; }
  __device__ __forceinline__ bool ahead() const { return row & 1; }
};

#if !GATHER_AHEAD
// What a warp knows of its records before its first tile: nothing, where stages bring them.
struct Reader {
  __device__ __forceinline__ Reader(const Pointers&, const Shape&, const Me&) {}
};
#endif

__device__ __forceinline__ void clear(float (&sum)[kM][kN][4]) {
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] = 0.f;
}

// Where in a record a lane finds its row.
__device__ __forceinline__ u32 row_in_record(int lane) {
  return kWeightBytes + 2 * ((lane & 7) + 8 * (lane >> 4));
}

// Bytes from a warp's first block of columns to another one, of a plane: in a window it is the pixel
// beside it.
__device__ __forceinline__ u32 columns_at(int half, int plane, u32 plane_bytes) {
  return kWindow ? half * kBoxBytes + plane * plane_bytes : (half * kPlanes + plane) * plane_bytes;
}

// Where this lane's row begins: `pixels` is the first block of this warp's columns in its stage.
__device__ __forceinline__ u32 start_of(const Record& r, u32 pixels, int lane) {
  const u32 second = lane >> 3 & 1;  // this lane's row is of columns 8 to 15 of an m16 tile
  const u32 row = r.row & 0x7ff0;
#if GATHER_SWIZZLED
  return pixels + (row ^ second << 4);
#else
  return pixels + row + second * 1024;
#endif
}

// Where the columns of m16 tile `m` begin, but for the warp's block.
__device__ __forceinline__ u32 tile_of(u32 at, int m) {
#if GATHER_SWIZZLED
  return at ^ (m % 4) << 5;
#else
  return at + m % 4 * 2048;
#endif
}

// One k-step of 16 kept channels.
__device__ __forceinline__ void multiply(float (&sum)[kM][kN][4], const Record& r, u32 pixels,
                                         u32 plane_bytes, int lane) {
  const u32 at = start_of(r, pixels, lane);
  constexpr int kAhead = kPlanes == 2 ? 2 : 4;  // m16 tiles whose columns are read together
#pragma unroll
  for (int first = 0; first < kM; first += kAhead) {
    u32 x[kAhead][kPlanes][4];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int m = first + i;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        load_transposed(x[i][plane], tile_of(at, m) + columns_at(m / 4, plane, plane_bytes));
    }
#pragma unroll
    for (int product = kPlanes == 2 ? 0 : 2; product < 3; ++product) {  // small products first
      const int xp = product == 0 ? kPlanes - 1 : 0, wp = product == 1 ? kPlanes - 1 : 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
#pragma unroll
        for (int n = 0; n < kN; ++n)
          multiply_matrices<kNumbers>(sum[first + i][n], x[i][xp], r.weights[wp][2 * n],
                        r.weights[wp][2 * n + 1]);
    }
  }
}

// A warp's first block of columns in a stage, in bytes.
__device__ __forceinline__ u32 columns_of(const Shape& s, const Me& me, u32 plane_bytes) {
  const int along = me.along * kHalves;
  return kWindow ? (along / 2 * s.line + along % 2) * kBoxBytes : along * kPlanes * plane_bytes;
}
