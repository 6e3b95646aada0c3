// What wgmma/common.cuh offers to the gather kernels, in C++; barriers are in engine.h.
#pragma once
#include "instructions.cuh"

inline u32 shared_address(const void* p) { return address_of(p); }
inline u32 load_word(u32 from) { return read_shared<u32>(*machine->now->block, from); }
inline void load_bytes(u32 to, const void* from, u32 bytes, u32 bar) {
  copy_bytes(to, from, bytes, bar);
}
inline void sync_threads(int id, int count) { sync_warps(id, count); }

// ---- 8x8 matrices of 16-bit numbers between registers and shared memory, transposed
inline u16& element(u32 address, int column) {
  return reinterpret_cast<u16*>(shared(address, 16))[column];
}
inline void load_transposed(u32 (&r)[4], u32 from) {
  Matrices mine{r, from};
  collective("ldmatrix", &mine, [](void** given) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 2; ++k) {
          const int row = 8 * i + 2 * (lane % 4) + k;
          const u32 v = element(static_cast<Matrices*>(given[row])->address, lane / 4);
          u32& to = static_cast<Matrices*>(given[lane])->r[i];
          to = k ? (to & 0xffff) | v << 16 : v;
        }
  });
}
inline void store_transposed(u32 to, const u32 (&r)[4]) {
  Matrices mine{const_cast<u32*>(r), to};
  collective("stmatrix", &mine, [](void** given) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 2; ++k) {
          const int row = 8 * i + 2 * (lane % 4) + k;
          element(static_cast<Matrices*>(given[row])->address, lane / 4) =
              u16(static_cast<Matrices*>(given[lane])->r[i] >> 16 * k);
        }
  });
}

// ---- numbers
constexpr Numbers kPairs = CS_BF16 ? Numbers::bf16 : Numbers::fp16;
inline u32 pack2(float low, float high) { return narrowed_pair<kPairs>(low, high); }
inline void unpack2(u32 v, float& low, float& high) {
  const float2 pair = widened_pair<kPairs>(v);
  low = pair.x, high = pair.y;
}
inline float relu(float v) { return v < 0.f ? 0.f : v; }
