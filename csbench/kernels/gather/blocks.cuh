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

// ---- columns: blocks of 64 are counted along four dimensions, the last one without bound
__device__ __forceinline__ void split_block(const int (&blocks)[3], int block, int (&i)[4]) {
#pragma unroll
  for (int d = 0; d < 3; ++d) {
    const int rest = block / blocks[d];
    i[d] = block - rest * blocks[d];
    block = rest;
  }
  i[3] = block;
}

// Coordinates, in the input, of the first column of a block.
__device__ __forceinline__ void first_column(const int (&blocks)[3], const int (&step)[4],
                                             int block, int (&x)[4]) {
  split_block(blocks, block, x);
#pragma unroll
  for (int d = 0; d < 4; ++d) x[d] *= step[d];
}

// Where eight neighbouring columns are stored: elements from the channel's first; -1 outside.
__device__ __forceinline__ int place_of(const int (&blocks)[3], const int (&box)[4],
                                        const int (&size)[4], const int (&stride)[4], int block,
                                        int chunk) {
  int i[4], place = 0;
  bool inside = true;
  split_block(blocks, block, i);
#pragma unroll
  for (int d = 0; d < 4; ++d) {
    const int width = d ? box[d] : box[0] / 8;  // in chunks, of which the first dimension has eight
    const int within = chunk % width;
    chunk /= width;
    const int o = i[d] * box[d] + (d ? within : within * 8);
    inside &= o < size[d];
    place += o * stride[d];
  }
  return inside ? place : -1;
}
