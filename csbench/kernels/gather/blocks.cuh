// Blocks of 64 columns: where one is read from and where it is stored; a ring of stages.
#pragma once
#include "instructions.cuh"
#include "wgmma/common.cuh"

struct Ring {
  int slot = 0;
  u32 phase = 0;
  __device__ __forceinline__ void advance(int by, int slots) {
    slot += by;
    while (slot >= slots) slot -= slots, phase ^= 1;
  }
};

// A number that the host knows; n / by for n from 0 to 2^31 - 1 without a division.
struct Divisor {
  int by;
  u32 factor;
  int shift;
  __device__ __forceinline__ int of(int n) const {
    return int(static_cast<unsigned long long>(u32(n)) * factor >> shift);
  }
};

// ---- columns: blocks of 64 are counted along four dimensions, the last one without bound
__device__ __forceinline__ void split_block(const Divisor (&blocks)[3], int block, int (&i)[4]) {
#pragma unroll
  for (int d = 0; d < 3; ++d) {
    const int rest = blocks[d].of(block);
    i[d] = block - rest * blocks[d].by;
    block = rest;
  }
  i[3] = block;
}

// Coordinates, in the input, of the first column of a block.
__device__ __forceinline__ void first_column(const Divisor (&blocks)[3], const int (&step)[4],
                                             int block, int (&x)[4]) {
  split_block(blocks, block, x);
#pragma unroll
  for (int d = 0; d < 4; ++d) x[d] *= step[d];
}

// Where eight neighbouring columns are stored: elements from the channel's first; -1 outside.
// `bits` are the binary logarithms of a box's columns; the first dimension has eight in a chunk.
__device__ __forceinline__ int place_of(const Divisor (&blocks)[3], const int (&bits)[4],
                                        const int (&size)[4], const int (&stride)[4], int block,
                                        int chunk) {
  int i[4], place = 0;
  bool inside = true;
  split_block(blocks, block, i);
#pragma unroll
  for (int d = 0; d < 4; ++d) {
    const int chunks = d ? bits[d] : bits[d] - 3;
    const int within = chunk & ((1 << chunks) - 1);
    chunk >>= chunks;
    const int o = (i[d] << bits[d]) + (d ? within : within * 8);
    inside &= o < size[d];
    place += o * stride[d];
  }
  return inside ? place : -1;
}
