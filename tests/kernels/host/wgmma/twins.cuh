// Two blocks of a cluster: what happens in one of them happens in both.
#pragma once
#include "instructions.cuh"

template <class Act> void in_both(const Act& act) {
  if (machine->blocks.size() != 2) fail("twins are two blocks");
  if (!machine->cluster.generation) fail("the other block may not have begun");
  for (auto& lane : machine->lanes)
    if (lane->done) fail("the other block may have ended");
  Block* mine = machine->now->block;
  for (auto& block : machine->blocks) machine->now->block = block.get(), act();
  machine->now->block = mine;
}
inline void load_box_for_both(u32 to, const void* map, int x0, int x1, int x2, int x3, int x4, u32 bar) {
  in_both([=] { load_box(to, map, x0, x1, x2, x3, x4, bar); });
}
inline void arrive_at_both(u32 bar) {
  in_both([=] { barrier_arrive(bar); });
}
