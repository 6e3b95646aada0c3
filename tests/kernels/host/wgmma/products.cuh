// wgmma. Products of even warps happen at once; those of odd warps only where they are waited for,
// and when nothing else moves: what was not there yet, and what has changed until then, shows.
#pragma once
#include "instructions.cuh"

using u64 = unsigned long long;

// ---- groups of products
inline void wgmma_fence() { __syncwarp(), machine->now->fenced = true; }
inline void wgmma_commit() {
  __syncwarp();
  machine->now->fenced = false, machine->now->products.emplace_back();
}
template <int kPending> void wgmma_wait() {
  auto& groups = machine->now->products;  // the last one is still open
  if (machine->now->thread / 32 % 2 && groups.size() > kPending + 1) be_slow();
  for (; groups.size() > kPending + 1; groups.erase(groups.begin()))
    for (auto& product : groups.front()) product();
}
// `act` is what one lane does of a product; four warps share its operands in shared memory.
template <class Act> void add_product(u64 a, u64 b, Act act) {
  Lane& lane = *machine->now;
  if (!lane.fenced) fail("products begin without wgmma_fence()");
  for (const u64 operand : {a, b}) {
    const std::pair<int, int> turn{lane.thread / 128, lane.operands++};
    const auto [known, first] = lane.block->operands.try_emplace(turn, operand);
    if (!first && known->second != operand) fail("four warps multiply different operands");
  }
  if (lane.thread / 32 % 2) lane.products.back().push_back(act);
  else act();
}

// ---- operands in shared memory, K-major: descriptors as tensor cores read them
inline u64 operand(u32 address, u32 row_bytes) {
  return u64(row_bytes == 128 ? 1 : 2) << 62 | u64(row_bytes * 8 >> 4) << 32 | 1ull << 16 |
         (address & 0x3ffff) >> 4;
}
inline u64 plain_operand(u32 address, u32 along_k, u32 along_rows) {
  return u64(along_rows >> 4) << 32 | u64(along_k >> 4) << 16 | (address & 0x3ffff) >> 4;
}
// The 8 numbers from column 8 * `piece` on of a row.
inline const u16* operand_row(u64 of, int row, int piece) {
  const auto field = [&](int from) { return u32(of >> from & 0x3fff) << 4; };
  const u32 bytes = of >> 62 == 1 ? 128 : of >> 62 == 2 ? 64 : 0;  // of a swizzled row
  u32 at = field(0) + row / 8 * field(32) + row % 8 * (bytes ? bytes : 16) +
           piece * (bytes ? 16 : field(16));
  if (bytes) at ^= (at >> 7 & (bytes / 16 - 1)) << 4;
  static const u16 nan[8] = {0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff};
  return is_unfenced(*machine->now->block, at) ? nan : reinterpret_cast<const u16*>(shared(at, 16));
}

// ---- 64 x N sums; A is 64 rows of 16 numbers, which stand for 32 columns when sparse
constexpr Numbers kPairs = CS_BF16 ? Numbers::bf16 : Numbers::fp16;
struct Kept { float value; int column; };
struct SharedProduct { float* d; u64 a, b; u32 meta; bool adds; };

// A warp's row: of four columns two are kept, and metadata of the quarter of lanes says which.
template <bool kSparse> void read_row(void** given, int row, int select, Kept (&kept)[16]) {
  const auto of = [&](int lane) -> SharedProduct& { return *static_cast<SharedProduct*>(given[lane]); };
  const int warp = machine->now->thread / 32 % 4;
  for (int i = 0; i < 16; ++i) {
    kept[i] = {widened<kPairs>(operand_row(of(0).a, 16 * warp + row, i / 8)[i % 8]), i};
    if (!kSparse) continue;
    const u32 four = of(row % 8 * 4 + 2 * select + i / 8).meta >> (row / 8 * 16 + i / 2 % 4 * 4) & 15;
    if ((four & 3) >= four >> 2) fail("metadata is not in order");
    kept[i].column = i / 2 * 4 + (i % 2 ? four >> 2 : four & 3);
  }
}
template <int N, bool kSparse>
void multiply_shared(float (&d)[N / 2], u64 a, u64 b, u32 meta, int select, int adds) {
  add_product(a, b, [mine = SharedProduct{d, a, b, meta, adds != 0}, select]() mutable {
    collective("wgmma", &mine, [&](void** given) {
      static float x[kSparse ? 32 : 16][N];
      for (int n = 0; n < N; ++n)
        for (int k = 0; k < (kSparse ? 32 : 16); k += 8) {
          const u16* from = operand_row(mine.b, n, k / 8);
          for (int i = 0; i < 8; ++i) x[k + i][n] = widened<kPairs>(from[i]);
        }
      for (int row = 0; row < 16; ++row) {
        Kept kept[16];
        read_row<kSparse>(given, row, select, kept);
        static double sum[N];
        for (int n = 0; n < N; ++n) {
          const auto& one = *static_cast<SharedProduct*>(given[row % 8 * 4 + n % 8 / 2]);
          sum[n] = one.adds ? one.d[n / 8 * 4 + row / 8 * 2 + n % 2] : 0.f;
        }
        for (const Kept& one : kept)
          for (int n = 0; n < N; ++n) sum[n] += double(one.value) * x[one.column][n];
        for (int n = 0; n < N; ++n)
          static_cast<SharedProduct*>(given[row % 8 * 4 + n % 8 / 2])
              ->d[n / 8 * 4 + row / 8 * 2 + n % 2] = float(sum[n]);
      }
    });
  });
}
template <int kSelect, size_t kSums>
void wgmma_sparse(float (&d)[kSums], u64 a, u64 b, u32 meta, int adds) {
  multiply_shared<2 * kSums, true>(d, a, b, meta, kSelect, adds);
}
template <size_t kSums> void wgmma_dense(float (&d)[kSums], u64 a, u64 b, int adds) {
  multiply_shared<2 * kSums, false>(d, a, b, 0, 0, adds);
}
