// The kernels of one file, -DHOST_FILE, as functions that a test can call; -DHOST_KERNELS is
// ENTRY(name) for each.
#include <common.h>

#include HOST_FILE

HOST_KERNELS
