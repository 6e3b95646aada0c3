// wgmma with A from registers, which are read when the product happens.
#pragma once
#include "wgmma/common.cuh"

inline u32 held(u32 v) { return v; }

struct RowsProduct { float (*d)[4]; const u32* a; u64 b; };
inline void wgmma_rows(float (&d)[4][4], const u32 (&a)[4], u64 b) {
  add_product(0, b, [mine = RowsProduct{d, a, b}]() mutable {
    collective("wgmma", &mine, [](void** given) {
      const u64 b = static_cast<RowsProduct*>(given[0])->b;
      float x[16][16], w[32][16];
      for (int n = 0; n < 32; ++n)
        for (int k = 0; k < 16; ++k) w[n][k] = widened<kPairs>(operand_row(b, n, k / 8)[k % 8]);
      for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
          for (int k = 0; k < 2; ++k)
            x[lane / 4 + i % 2 * 8][2 * (lane % 4) + k + i / 2 * 8] =
                widened<kPairs>(u16(static_cast<RowsProduct*>(given[lane])->a[i] >> 16 * k));
      for (int lane = 0; lane < 32; ++lane)
        for (int n = 0; n < 4; ++n)
          for (int i = 0; i < 4; ++i) {
            float& d = static_cast<RowsProduct*>(given[lane])->d[n][i];
            double v = d;
            for (int k = 0; k < 16; ++k)
              v += double(x[lane / 4 + i / 2 * 8][k]) * w[8 * n + 2 * (lane % 4) + i % 2][k];
            d = float(v);
          }
    });
  });
}
