// async.cuh on a CPU: copies arrive when they are waited for, and not before.
#pragma once
#include "device.h"

template <int BYTES> void copy_async(void* to, const void* from, bool exists = true) {
  if (reinterpret_cast<size_t>(to) % BYTES || (exists && reinterpret_cast<size_t>(from) % BYTES))
    fail("a copy is not aligned");
  inside_shared(to, BYTES);
  machine.now().copies.back().push_back([=] {
    if (exists) memcpy(to, from, BYTES);
    else memset(to, 0, BYTES);
  });
}
inline void close_copies() { machine.now().copies.emplace_back(); }
template <int PENDING> void await_copies() {
  auto& groups = machine.now().copies;  // the last one is still open
  for (; groups.size() > PENDING + 1; groups.pop_front())
    for (auto& copy : groups.front()) copy();
}
inline void let_successor_start() {}
inline void await_predecessor() {}
