// Two blocks of a cluster that hold the same at the same addresses of their shared memory.
#pragma once
#include "instructions.cuh"

// load_box() into both of them; bytes are counted by the barrier of each.
__device__ __forceinline__ void load_box_for_both(u32 to, const void* map, int x0, int x1, int x2,
                                                  int x3, int x4, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to), "l"(map),
      "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(barrier), "h"(u16(3))
      : "memory");
}
// barrier_arrive() in both of them.
__device__ __forceinline__ void arrive_at_both(u32 barrier) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, 0;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "mapa.shared::cluster.u32 there, %0, 1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier)
      : "memory");
}
