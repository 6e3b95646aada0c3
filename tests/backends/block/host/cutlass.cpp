// cutlass/block.cu for the machine of backends/vector/host. CuTe brings CUDA's own types, so the
// machine's have other names here.
#include <cute/tensor.hpp>

#undef __device__
#undef __global__
#undef __shared__
#undef __forceinline__
#undef __grid_constant__
#undef __launch_bounds__
#undef __align__
#define Barrier HostBarrier
#define dim3 HostDim
#define int4 HostInt4
#define uint2 HostUint2
#define uint4 HostUint4
#define float2 HostFloat2
#define float4 HostFloat4
#define make_int4 host_make_int4
#define make_uint4 host_make_uint4
#define make_float4 host_make_float4
#include "device.h"
#undef Barrier
#undef dim3
#undef int4
#undef uint2
#undef uint4
#undef float2
#undef float4
#undef make_int4
#undef make_uint4
#undef make_float4
#undef threadIdx
#undef blockIdx
#define threadIdx (HostDim{machine->now->thread})
#define blockIdx (HostDim{machine->now->block->number})

#include "cutlass/block.cu"

extern "C" const char* run_block_convolution(int grid, int threads, int cluster, int bytes,
                                             void** given) {
  return launch(block_convolution, grid, threads, cluster, bytes, given);
}
