// A GPU as far as the csr kernels know one: the lanes of a block as fibers, block after block.
//
// Lanes run until they wait for their warp or their block. Shared memory starts as NaN.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __grid_constant__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float __uint_as_float(unsigned v) {
  float f;
  memcpy(&f, &v, 4);
  return f;
}

inline int4 shared[(256 << 10) / 16];  // dynamic shared memory

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "emulated kernel: %s\n", what);
  abort();
}

enum State { RUNS, AT_WARP, AT_BLOCK, DONE };
struct Lane {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  State state = RUNS;
  std::deque<std::vector<std::function<void()>>> copies{1};
};
struct Machine {
  std::vector<Lane> lanes;
  ucontext_t scheduler;
  int current = 0, block = 0, bytes = 0;
  std::function<void()> body;
  Lane& now() { return lanes[current]; }
};
inline Machine machine;

struct Index { int x; };
#define threadIdx (Index{machine.current})
#define blockIdx (Index{machine.block})
#define blockDim (Index{int(machine.lanes.size())})

inline void inside_shared(const void* at, int bytes) {
  const char* begin = reinterpret_cast<const char*>(shared);
  const char* p = static_cast<const char*>(at);
  if (p < begin || p + bytes > begin + machine.bytes) fail("a copy beyond shared memory");
}

inline void wait_as(State state) {
  machine.now().state = state;
  swapcontext(&machine.now().context, &machine.scheduler);
}
inline void __syncwarp() { wait_as(AT_WARP); }
inline void __syncthreads() { wait_as(AT_BLOCK); }

inline void start() {
  machine.body();
  wait_as(DONE);
}

// Lets go those whose warp or block has arrived; false where nobody can go on.
inline bool released(int first, int count, State state) {
  int there = 0, done = 0;
  for (int i = first; i < first + count; i++) {
    there += machine.lanes[i].state == state;
    done += machine.lanes[i].state == DONE;
  }
  if (!there || there + done < count) return false;
  for (int i = first; i < first + count; i++)
    if (machine.lanes[i].state == state) machine.lanes[i].state = RUNS;
  return true;
}

inline void run_block(int block, int threads) {
  machine.block = block;
  machine.lanes = std::vector<Lane>(threads);
  memset(shared, 0xff, sizeof shared);
  for (Lane& lane : machine.lanes) {
    getcontext(&lane.context);
    lane.context.uc_stack = {lane.stack.data(), 0, lane.stack.size()};
    makecontext(&lane.context, start, 0);
  }
  for (bool moved = true; moved;) {
    moved = false;
    for (machine.current = 0; machine.current < threads; machine.current++)
      if (machine.now().state == RUNS) {
        swapcontext(&machine.scheduler, &machine.now().context);
        moved = true;
      }
    for (int warp = 0; warp < threads; warp += 32) moved |= released(warp, 32, AT_WARP);
    moved |= released(0, threads, AT_BLOCK);
  }
  for (const Lane& lane : machine.lanes)
    if (lane.state != DONE) fail("lanes wait for one another");
}

template <class... Given, size_t... I>
void call(void (*kernel)(Given...), void** given, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<Given>*>(given[I])...);
}
template <class... Given>
void launch(void (*kernel)(Given...), int grid, int threads, int bytes, void** given) {
  machine.bytes = bytes;
  machine.body = [=] { call(kernel, given, std::index_sequence_for<Given...>{}); };
  for (int block = 0; block < grid; block++) run_block(block, threads);
}
