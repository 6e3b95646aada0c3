// What cutlass/copies.cuh offers, in C++. Copies arrive late and in any order.
#pragma once

struct TensorMap {  // as host.py writes it
  const unsigned char* base;
  int channels, width, height, images;  // a matrix is one line of its rows
  int lower[2], upper[2], stride[2];    // across, down
  int box_channels, box_pixels, element;
};

struct Barrier {
  uint64_t word;
};

inline u32 address(const Barrier& b) { return shared_address(&b); }
inline HostBarrier* find(const Barrier& b) { return &machine->now->block->barriers.at(address(b)); }
inline void arrive(HostBarrier& b, int bytes) {
  b.bytes += bytes;
  if (--b.pending < 0) fail("too many arrivals");
  settle(b);
}
inline void barrier_init(Barrier& b, int count) {
  machine->now->block->barriers[address(b)] = {count, count, 0, 0};
}
inline void fence_barrier_init() {}
inline void barrier_arrive(Barrier& b) { arrive(*find(b), 0); }
inline void barrier_expect(Barrier& b, int bytes) { arrive(*find(b), bytes); }
inline void barrier_wait(Barrier& b, uint32_t phase) {
  HostBarrier* found = find(b);
  wait_until([=] { return (found->phase & 1) != int(phase); });
}
inline void prefetch_map(const TensorMap&) {}

// Later: `write`, of so many bytes at `to`.
template <class Write> void later(void* to, int bytes, int alignment, Barrier& b, Write write) {
  if (reinterpret_cast<size_t>(to) % alignment) fail("a copy is not aligned");
  shared(shared_address(to), 1), shared(shared_address(to) + bytes - 1, 1);
  HostBarrier* found = find(b);
  machine->engine.push_back([=] { write(), found->bytes -= bytes, settle(*found); });
}
inline void load_bytes(void* to, const void* from, int bytes, Barrier& b) {
  if (reinterpret_cast<size_t>(from) % 16 || bytes % 16) fail("a copy is not aligned");
  later(to, bytes, 16, b, [=] { memcpy(to, from, bytes); });
}
// Pixel i of the box lies at start + offset in the image, start being the i-th of a walk.
inline void load_window(void* to, const TensorMap& given, int channel, int w, int h, int n,
                        int across, int down, Barrier& b) {
  const TensorMap m = given;
  const int line = m.box_channels * m.element;
  later(to, m.box_pixels * line, 128, b, [=] {
    int x = w, y = h, z = n;
    for (int i = 0; i < m.box_pixels; ++i) {
      for (int c = 0; c < m.box_channels; ++c) {
        size_t at = reinterpret_cast<size_t>(to) + i * line + c * m.element;
        at ^= (at >> 7 & (line / 16 - 1)) << 4;  // the swizzle of a line
        const int u = x + across, v = y + down, k = channel + c;
        const bool inside = u >= 0 && u < m.width && v >= 0 && v < m.height && z < m.images &&
                            k < m.channels;
        const long long pixel = (1ll * z * m.height + v) * m.width + u;
        if (inside)
          memcpy(reinterpret_cast<void*>(at), m.base + (pixel * m.channels + k) * m.element,
                 m.element);
        else
          memset(reinterpret_cast<void*>(at), 0, m.element);
      }
      if ((x += m.stride[0]) < m.width + m.upper[0]) continue;
      x = m.lower[0], y += m.stride[1];
      if (y >= m.height + m.upper[1]) y = m.lower[1], ++z;
    }
  });
}
inline void load_lines(void* to, const TensorMap& m, int column, int line, Barrier& b) {
  load_window(to, m, column, line, 0, 0, 0, 0, b);
}
