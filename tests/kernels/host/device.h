// A GPU as far as the kernels know one: the lanes of a cluster as fibers of one thread.
//
// Lanes run until they wait: for their warp (a collective), for a barrier, for the copy engine (see
// engine.h), for tensor cores (wgmma/products.cuh). Clusters run one after another, and some of a
// cluster's blocks begin late. Shared memory starts as NaN. Nothing moving is a deadlock.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

using u16 = unsigned short;
using u32 = unsigned int;

#undef __device__
#undef __global__
#undef __shared__
#undef __forceinline__
#undef __grid_constant__
#undef __launch_bounds__
#undef __align__
#define __device__
#define __global__
#define __shared__ thread_local  // one for all fibers: kernels that use it have no clusters
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float __uint_as_float(u32 v) { float f; memcpy(&f, &v, 4); return f; }
inline float __int_as_float(int v) { return __uint_as_float(v); }
template <class T> T __ldg(const T* p) { return *p; }

[[noreturn]] inline void fail(const char* what);  // ends the launch

struct Mbarrier {
  int count = 0, pending = 0;
  long long bytes = 0;
  int phase = 0;
  bool fenced = false;  // the copy engine knows it
};
struct Meeting { int arrived = 0, generation = 0, expected = 0; };

// Dynamic shared memory, and a little beyond its end that nobody may write.
constexpr u32 kSharedBase = 4096, kAlignment = 1024, kBeyond = 256;
struct SharedMemory {
  u32 bytes;
  std::unique_ptr<unsigned char, decltype(&free)> at;

  explicit SharedMemory(u32 bytes_)
      : bytes(bytes_),
        at(static_cast<unsigned char*>(aligned_alloc(
               kAlignment, (bytes_ + kBeyond + kAlignment - 1) / kAlignment * kAlignment)), &free) {
    memset(at.get(), 0xff, bytes + kBeyond);
  }
  bool is_overrun() const {
    for (u32 i = 0; i < kBeyond; ++i)
      if (at.get()[bytes + i] != 0xff) return true;
    return false;
  }
};

struct Block {
  SharedMemory memory;
  std::map<u32, Mbarrier> barriers;
  std::map<int, Meeting> named;
  int number, threads;
  int late = 0;  // rounds until it begins
  std::map<std::pair<int, int>, unsigned long long> operands;  // of wgmma, by group of warps and turn
  std::vector<char> unfenced = std::vector<char>(memory.bytes / 16 + 1);  // see note_store()
};

struct Warp {
  Meeting meeting;
  const char* doing = nullptr;
  void* given[32];
};

struct Stores { int unread = 0, unwritten = 0; };  // a group of boxes that leave shared memory

constexpr size_t kStack = 1 << 16;
inline std::vector<std::unique_ptr<char[]>> stacks;  // of lanes by number, in all launches

struct Lane {
  ucontext_t start;
  jmp_buf state;
  char* stack;
  Block* block;
  Warp* warp;
  int thread;
  bool started = false, done = false;
  std::vector<u32> unfenced;  // its own of the block's
  int operands = 0;           // of wgmma
  bool fenced = false;        // registers are wgmma's
  // On their way, by groups of which the last is open:
  std::vector<std::vector<std::function<void()>>> products{1};  // of wgmma
  std::vector<std::vector<std::function<void()>>> copies{1};    // of cp.async
  std::vector<Stores> stores{1};
};

struct Copy {
  bool late;  // comes when lanes can do no more
  std::function<void()> act;
};

struct Dice {  // the same throws in every launch
  uint64_t state = 1;
  u32 operator()() {
    state = state * 6364136223846793005 + 1442695040888963407;
    return u32((state ^ state >> 30) >> 32);
  }
};

struct Machine {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Copy> engine;  // copies on their way
  Meeting cluster;
  Lane* now = nullptr;
  jmp_buf scheduler, end;
  const char* wrong = nullptr;
  long long progress = 0;
  int stalls = 0, slow = 0;  // times that nothing moved; lanes that wait for the next
  int grid[2] = {};
  Dice dice;
  std::function<void()> body;
  void (*predecessor)() = nullptr;  // ends when it is first waited for
};
inline Machine* machine;

[[noreturn]] inline void fail(const char* what) {
  machine->wrong = what;
  _longjmp(machine->end, 1);
}

struct Index { int x, y = 0; };
#define threadIdx (Index{machine->now->thread})
#define blockIdx (index_of(*machine->now->block))
#define blockDim (Index{machine->now->block->threads, 1})
#define gridDim (Index{machine->grid[0], machine->grid[1]})
inline Index index_of(const Block& b) {
  return {b.number % machine->grid[0], b.number / machine->grid[0]};
}

// A lane's copies arrive at any time until they are waited for; those of odd lanes no sooner.
inline void let_some_arrive(Lane& lane) {
  if (lane.thread % 2) return;
  for (auto& group : lane.copies)
    if (!group.empty() && machine->dice() % 4 == 0) {
      std::swap(group[machine->dice() % group.size()], group.back());
      group.back()(), group.pop_back();
    }
}
inline void yield() {
  if (!_setjmp(machine->now->state)) _longjmp(machine->scheduler, 1);
  let_some_arrive(*machine->now);
}
template <class Ready> void wait_until(const Ready& ready) {
  while (!ready()) yield();
  ++machine->progress;
}
// What is slow waits until no lane can go on; copies may then still be on their way.
inline void be_slow() {
  ++machine->slow;
  wait_until([now = machine->stalls] { return machine->stalls != now; });
}
inline void meet(Meeting& m, int count) {
  const int generation = m.generation;
  if (m.arrived && m.expected != count) fail("a barrier is used for different numbers of threads");
  m.expected = count;
  if (++m.arrived == count) m.arrived = 0, ++m.generation;
  wait_until([&] { return m.generation != generation; });
}

// All lanes of a warp: the last one does it for all, given[lane] being what each one brought.
template <class Act> void collective(const char* what, void* mine, const Act& act) {
  Warp& w = *machine->now->warp;
  if (w.meeting.arrived && strcmp(w.doing, what)) fail("lanes of a warp do different things");
  w.doing = what, w.given[machine->now->thread % 32] = mine;
  if (w.meeting.arrived == 31) act(w.given);
  meet(w.meeting, 32);
}
inline void __syncwarp() { collective("syncwarp", nullptr, [](void**) {}); }
inline void __syncthreads() { meet(machine->now->block->named[0], machine->now->block->threads); }

struct Shuffle { u32 value; int from; u32 result; };
template <class T> T __shfl_sync(u32, T value, int from) {
  Shuffle mine{0, from, 0};
  memcpy(&mine.value, &value, 4);
  collective("shuffle", &mine, [](void** given) {
    for (int i = 0; i < 32; ++i) {
      auto* one = static_cast<Shuffle*>(given[i]);
      one->result = static_cast<Shuffle*>(given[one->from & 31])->value;
    }
  });
  T result;
  memcpy(&result, &mine.result, 4);
  return result;
}
template <class T> T __shfl_xor_sync(u32 all, T value, int by) {
  return __shfl_sync(all, value, (machine->now->thread % 32) ^ by);
}

// ---- shared memory by its addresses of 32 bits
inline unsigned char* shared(Block& block, u32 address, u32 bytes) {
  if (address < kSharedBase || address - kSharedBase + bytes > block.memory.bytes)
    fail("an address outside of shared memory");
  if (address % (bytes < 16 ? bytes : 16)) fail("a misaligned address");
  return block.memory.at.get() + (address - kSharedBase);
}
inline unsigned char* shared(u32 address, u32 bytes) {
  return shared(*machine->now->block, address, bytes);
}
inline u32 address_of(const void* p) {
  const auto offset = static_cast<const unsigned char*>(p) - machine->now->block->memory.at.get();
  if (offset < 0 || offset > machine->now->block->memory.bytes) fail("not in shared memory");
  return kSharedBase + u32(offset);
}

// ---- running
inline void enter() {
  machine->body();
  machine->now->done = true, ++machine->progress;
  _longjmp(machine->scheduler, 1);
}

inline void resume(Lane& lane) {
  machine->now = &lane;
  if (_setjmp(machine->scheduler)) return;
  if (lane.started) _longjmp(lane.state, 1);
  lane.started = true;
  getcontext(&lane.start);
  lane.start.uc_stack.ss_sp = lane.stack, lane.start.uc_stack.ss_size = kStack;
  lane.start.uc_link = nullptr;
  makecontext(&lane.start, enter, 0);
  setcontext(&lane.start);
}

inline void set_up_cluster(int first, int blocks, int threads, u32 bytes) {
  Machine& m = *machine;
  m.blocks.clear(), m.warps.clear(), m.lanes.clear(), m.engine.clear(), m.cluster = {}, m.slow = 0;
  for (int b = 0; b < blocks; ++b) {
    m.blocks.emplace_back(new Block{SharedMemory(bytes), {}, {}, first + b, threads});
    if (blocks > 1) m.blocks.back()->late = m.dice() % 64;
    for (int t = 0; t < threads; ++t) {
      if (t % 32 == 0) m.warps.push_back(std::make_unique<Warp>());
      if (m.lanes.size() == stacks.size()) stacks.emplace_back(new char[kStack]);
      char* stack = stacks[m.lanes.size()].get();
      m.lanes.push_back(std::make_unique<Lane>());
      Lane& lane = *m.lanes.back();
      lane.block = m.blocks.back().get(), lane.warp = m.warps.back().get();
      lane.thread = t, lane.stack = stack;
    }
  }
}

inline void run_cluster() {
  Machine& m = *machine;
  const int warps = m.lanes.size() / 32;
  for (bool left = true; left;) {
    const long long before = m.progress;
    for (auto& block : m.blocks)
      if (block->late) --block->late, ++m.progress;
    for (int i = 0; i < warps; ++i) {
      const int warp = m.dice() % warps;
      for (int l = 0; l < 32; ++l)
        if (Lane& lane = *m.lanes[warp * 32 + l]; !lane.done && !lane.block->late) resume(lane);
    }
    left = false;
    for (auto& lane : m.lanes) {
      if (lane->done) continue;
      left = true;
      if (!lane->block->late) resume(*lane);
    }
    const bool stalled = m.progress == before;
    if (stalled && m.slow && (m.engine.empty() || m.dice() % 2)) {
      m.slow = 0, ++m.stalls, ++m.progress;
    } else if (!m.engine.empty() && (stalled || m.dice() % 4 == 0)) {
      std::swap(m.engine[m.dice() % m.engine.size()], m.engine.back());
      if (stalled || !m.engine.back().late) {
        auto copy = std::move(m.engine.back());
        m.engine.pop_back();
        copy.act(), ++m.progress;
      }
    }
    if (left && m.progress == before) fail("a deadlock");
  }
  if (!m.engine.empty()) fail("copies are still on their way at the end");
  for (auto& block : m.blocks)
    if (block->memory.is_overrun()) fail("a write beyond shared memory");
}

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** given, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<std::remove_reference_t<A>>*>(given[I])...);
}

// Null, or what the kernel did wrong.
template <class... A>
const char* launch(void (*kernel)(A...), const int (&grid)[2], int threads, int cluster, int bytes,
                   void** given, void (*predecessor)()) {
  Machine m;
  machine = &m;
  m.grid[0] = grid[0], m.grid[1] = grid[1], m.predecessor = predecessor;
  m.body = [&] { call(kernel, given, std::index_sequence_for<A...>{}); };
  if (!_setjmp(m.end))
    for (int first = 0; first < grid[0] * grid[1]; first += cluster)
      set_up_cluster(first, cluster, threads, bytes), run_cluster();
  return m.wrong;
}
#define ENTRY(name)                                                                             \
  extern "C" const char* run_##name(int across, int down, int threads, int cluster, int bytes,  \
                                    void** given, void (*predecessor)()) {                      \
    return launch(name, {across, down}, threads, cluster, bytes, given, predecessor);           \
  }
