// The kernels of one file, -DHOST_FILE, as functions that a test can call; -DHOST_KERNELS is
// ENTRY(name) for each.
#include "device.h"
#include HOST_FILE

// Stands for dynamic shared memory, which has addresses of 32 bits.
thread_local unsigned char memory[1];

#define ENTRY(name)                                                                      \
  extern "C" const char* run_##name(int grid, int threads, int cluster, int bytes,       \
                                    void** given) {                                      \
    return launch(name, grid, threads, cluster, bytes, given);                           \
  }
HOST_KERNELS
