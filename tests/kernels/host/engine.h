// Hopper's copy engine and its barriers. Copies arrive late and in any order.
#pragma once
#include "device.h"

// ---- mbarriers, by their addresses in shared memory
inline Mbarrier& mbarrier(u32 bar) {
  auto& all = machine->now->block->barriers;
  const auto found = all.find(bar);
  if (found == all.end()) fail("a barrier is used before its initialisation");
  return found->second;
}
inline void settle(Mbarrier& b) {
  if (b.pending || b.bytes) return;
  b.pending = b.count, ++b.phase, ++machine->progress;
}
inline void barrier_init(u32 bar, u32 count) {
  shared(bar, 8);
  machine->now->block->barriers[bar] = {int(count), int(count), 0, 0};
}
inline void barrier_expect(u32 bar, u32 bytes) {
  Mbarrier& b = mbarrier(bar);
  b.bytes += bytes;
  if (--b.pending < 0) fail("too many arrivals");
  settle(b);
}
inline void barrier_arrive(u32 bar) { barrier_expect(bar, 0); }
inline void barrier_wait(u32 bar, u32 phase) {
  Mbarrier* b = &mbarrier(bar);
  wait_until([=] { return (b->phase & 1) != int(phase); });
}
// The copy engine knows a barrier from then on.
inline void fence_barrier_init() {
  for (auto& each : machine->now->block->barriers) each.second.fenced = true;
}

// ---- tensors, as host.py describes them
struct alignas(64) TensorMap {
  const unsigned char* base;
  long long stride[4];          // bytes, of the dimensions after the first
  int extent[5];
  int lower[2], upper[2];       // of windows: where they begin, across and down
  u16 box[5];                   // of windows: channels, and pixels
  unsigned char step[5], rank, element, swizzle;  // bytes of a number, and of a swizzled row

  // Where the number at `at` is; null outside.
  const unsigned char* find(const int (&at)[5]) const {
    long long from = 0;
    for (int d = 0; d < rank; ++d) {
      if (at[d] < 0 || at[d] >= extent[d]) return nullptr;
      from += at[d] * (d ? stride[d - 1] : element);
    }
    return base + from;
  }
  // Where number `i` of a box that begins at `first` is.
  unsigned char* place(Block& block, u32 first, int i) const {
    u32 place = first + i * element;
    if (swizzle) place ^= (place >> 7 & (swizzle / 16 - 1)) << 4;
    return shared(block, place, element);
  }
  // The number at `at`, or zero, to number `i` of a box that begins at `to`.
  void copy(Block& block, u32 to, int i, const int (&at)[5]) const {
    const unsigned char* from = find(at);
    if (from) memcpy(place(block, to, i), from, element);
    else memset(place(block, to, i), 0, element);
  }
};

// ---- copies; some come only when no lane can go on
template <class Act> void by_engine(const Act& act) {
  machine->engine.push_back({machine->dice() % 2 == 0, act});
}
// Whether a row of 16 bytes was stored by a lane that has not called fence_async() since: tensor
// cores and the copy engine may then see what was there before.
inline char& is_unfenced(Block& block, u32 at) { return block.unfenced[(at - kSharedBase) / 16]; }
inline void note_store(u32 to) {
  machine->now->unfenced.push_back(to);
  is_unfenced(*machine->now->block, to) = true;
}
inline void fence_async() {
  for (u32 at : machine->now->unfenced) is_unfenced(*machine->now->block, at) = false;
  machine->now->unfenced.clear();
}
// Later: `write`, of so many bytes at `to`.
template <class Write> void later(u32 to, u32 bytes, u32 bar, const Write& write) {
  Block* block = machine->now->block;
  shared(to, 1), shared(to + bytes - 1, 1);
  if (!mbarrier(bar).fenced) fail("a copy by a barrier without fence_barrier_init()");
  by_engine([=] {
    write(*block);
    for (u32 at = to; at < to + bytes; at += 16) is_unfenced(*block, at) = false;
    Mbarrier& b = block->barriers.at(bar);
    b.bytes -= bytes;
    settle(b);
  });
}
inline void check_start(const TensorMap& map, u32 to, int first) {
  if (to % 128) fail("the copy engine writes to multiples of 128 bytes");
  if (first * map.element % 16) fail("the copy engine starts at multiples of 16 bytes");
}
inline void copy_bytes(u32 to, const void* from, u32 bytes, u32 bar) {
  if ((to | reinterpret_cast<size_t>(from) | bytes) % 16) fail("a copy is not aligned");
  later(to, bytes, bar, [=](Block& block) { memcpy(shared(block, to, 16), from, bytes); });
}
// A box from `start` on; zeros outside of the tensor.
inline void copy_box(u32 to, const TensorMap* given, const int (&start)[5], u32 bar) {
  const TensorMap map = *given;
  check_start(map, to, start[0]);
  const int x[5] = {start[0], start[1], start[2], start[3], start[4]};
  int total = 1;
  for (int d = 0; d < map.rank; ++d) total *= (map.box[d] - 1) / map.step[d] + 1;
  later(to, total * map.element, bar, [=](Block& block) {
    for (int i = 0; i < total; ++i) {
      int at[5] = {};
      for (int d = 0, rest = i; d < map.rank; ++d) {
        const int count = (map.box[d] - 1) / map.step[d] + 1;
        at[d] = x[d] + rest % count * map.step[d], rest /= count;
      }
      map.copy(block, to, i, at);
    }
  });
}
// A box leaves shared memory: first it is read there, later it is written; what lies outside of the
// tensor is not. A lane waits for groups of its own.
inline void store_box(const TensorMap& given, u32 from, const int (&start)[5]) {
  const TensorMap map = given;
  check_start(map, from, start[0]);
  Block* block = machine->now->block;
  const int x[5] = {start[0], start[1], start[2], start[3], start[4]};
  int total = 1;
  for (int d = 0; d < map.rank; ++d) total *= map.box[d];
  for (int i = 0; i < total * map.element; i += 16)
    if (is_unfenced(*block, from + i)) fail("a box leaves before what lanes stored is fenced");
  std::vector<Stores>* groups = &machine->now->stores;
  const size_t group = groups->size() - 1;
  ++groups->back().unread, ++groups->back().unwritten;
  by_engine([=] {
    std::vector<unsigned char> numbers(total * map.element);
    for (int i = 0; i < total; ++i)
      memcpy(&numbers[i * map.element], map.place(*block, from, i), map.element);
    --(*groups)[group].unread;
    by_engine([=] {
      for (int i = 0; i < total; ++i) {
        int at[5] = {};
        for (int d = 0, rest = i; d < map.rank; ++d)
          at[d] = x[d] + rest % map.box[d], rest /= map.box[d];
        if (const unsigned char* to = map.find(at))
          memcpy(const_cast<unsigned char*>(to), &numbers[i * map.element], map.element);
      }
      --(*groups)[group].unwritten;
    });
  });
}
inline void close_stores() { machine->now->stores.emplace_back(); }
// All groups but the open one and the last so many before it.
inline void await_stores_read(int pending) {
  wait_until([&groups = machine->now->stores, pending] {
    for (size_t i = 0; i + pending + 1 < groups.size(); ++i)
      if (groups[i].unread) return false;
    return true;
  });
}
inline void await_stores() {
  wait_until([&groups = machine->now->stores] {
    for (size_t i = 0; i + 1 < groups.size(); ++i)
      if (groups[i].unwritten) return false;
    return true;
  });
}
// Consecutive output pixels from (w, h, n) on, each seen through the kernel tap (across, down).
inline void copy_windows(u32 to, const TensorMap* given, int channel, int w, int h, int n,
                         int across, int down, u32 bar) {
  const TensorMap map = *given;
  check_start(map, to, channel);
  const int channels = map.box[0], pixels = map.box[1];
  later(to, channels * pixels * map.element, bar, [=](Block& block) {
    int x = w, y = h, z = n;
    for (int i = 0; i < pixels; ++i) {
      for (int c = 0; c < channels; ++c)
        map.copy(block, to, i * channels + c, {channel + c, x + across, y + down, z});
      if ((x += map.step[1]) < map.extent[1] + map.upper[0]) continue;
      x = map.lower[0], y += map.step[2];
      if (y >= map.extent[2] + map.upper[1]) y = map.lower[1], ++z;
    }
  });
}
