// What wgmma/common.cuh offers, in C++; barriers are in engine.h, products in products.cuh.
#pragma once
#include "instructions.cuh"
#include "wgmma/products.cuh"

// ---- shared memory; `memory` is what kernels declare as extern, and stands for all of it
thread_local unsigned char memory[1];
inline u32 shared_address(const void* p) { return p == memory ? kSharedBase : address_of(p); }
inline u32 load_word(u32 from) { return read_shared<u32>(*machine->now->block, from); }
inline void store_pair(u32 to, u32 a, u32 b) {
  unsigned char* place = shared(to, 8);
  memcpy(place, &a, 4), memcpy(place + 4, &b, 4);
  note_store(to);
}
inline void sync_threads(int id, int count) { sync_warps(id, count); }

// ---- the kernels before and after
inline void start_next_kernel() { let_successor_start(); }
inline void wait_previous_kernel() { await_predecessor(); }
template <int> void lower_registers() {}
template <int> void raise_registers() {}

// ---- copies
inline void load_bytes(u32 to, const void* from, u32 bytes, u32 bar) {
  copy_bytes(to, from, bytes, bar);
}
inline void load_tile(u32 to, const TensorMap* map, int c, int p, u32 bar) {
  copy_box(to, map, {c, p}, bar);
}
inline void load_box(u32 to, const TensorMap* map, int c, int w, int h, int n, u32 bar) {
  copy_box(to, map, {c, w, h, n}, bar);
}
inline void load_im2col(u32 to, const TensorMap* map, int c, int w, int h, int n, u16 s, u16 r,
                        u32 bar) {
  copy_windows(to, map, c, w, h, n, s, r, bar);
}
inline void store_tile(const TensorMap* map, u32 from, int c, int p) {
  store_box(*map, from, {c, p});
}
inline void store_box(const TensorMap* map, u32 from, int c, int w, int h, int n) {
  store_box(*map, from, {c, w, h, n});
}
inline void commit_stores() { close_stores(); }
template <int kPending> void wait_stores_read() { await_stores_read(kPending); }
inline void wait_stores() { await_stores(); }

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
  note_store(to);
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
inline u32 pack2(float low, float high) { return narrowed_pair<kPairs>(low, high); }
inline void unpack2(u32 v, float& low, float& high) {
  const float2 pair = widened_pair<kPairs>(v);
  low = pair.x, high = pair.y;
}
inline float relu(float v) { return v < 0.f ? 0.f : v; }
