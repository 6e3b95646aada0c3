// One kernel of one file, -DHOST_FILE and -DHOST_KERNEL, as a function that a test can call.
#include "device.h"
#include HOST_FILE

thread_local unsigned char memory[1];  // stands for dynamic shared memory, which has 32-bit addresses

extern "C" void run(int grid, int threads, int cluster, int bytes, void** given) {
  launch(HOST_KERNEL, grid, threads, cluster, bytes, given);
}
