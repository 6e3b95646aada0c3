// One kernel of one file, -DHOST_FILE and -DHOST_KERNEL, as a function that a test can call.
#include "device.h"
#include HOST_FILE

extern "C" void run(int grid, int threads, int bytes, void** given) {
  launch(HOST_KERNEL, grid, threads, bytes, given);
}
