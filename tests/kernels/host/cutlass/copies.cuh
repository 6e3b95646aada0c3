// What cutlass/copies.cuh offers, in C++.
#pragma once
#include "engine.h"

struct Barrier {
  uint64_t word;
};

inline void barrier_init(Barrier& b, int count) { barrier_init(address_of(&b), count); }
inline void barrier_arrive(Barrier& b) { barrier_arrive(address_of(&b)); }
inline void barrier_expect(Barrier& b, int bytes) { barrier_expect(address_of(&b), bytes); }
inline void barrier_wait(Barrier& b, u32 phase) { barrier_wait(address_of(&b), phase); }

inline void prefetch_map(const TensorMap&) {}
inline void load_bytes(void* to, const void* from, int bytes, Barrier& b) {
  copy_bytes(address_of(to), from, bytes, address_of(&b));
}
inline void load_lines(void* to, const TensorMap& map, int column, int line, Barrier& b) {
  copy_box(address_of(to), &map, {column, line}, address_of(&b));
}
inline void load_window(void* to, const TensorMap& map, int channel, int w, int h, int n,
                        int across, int down, Barrier& b) {
  copy_windows(address_of(to), &map, channel, w, h, n, across, down, address_of(&b));
}

inline void fence_for_copy_engine() {}
inline void store_lines(const TensorMap& map, int column, int line, const void* from) {
  store_box(map, address_of(from), {column, line});
}
inline void commit_stores() { close_stores(); }
inline void await_stores_read() { await_stores_read(0); }
