// Convolution with block-sparse weights: small dense products with pixels on the vector lanes.
//
// A kept block is R output by C input channels at one kernel tap. For 8 output channels and up to
// three vectors of pixels the sums stay in registers; every input channel of a block brings three
// loads and eight broadcasts for 24 multiply-adds, so the arithmetic is the limit, not the loads.
// Blocks that were pruned are never visited. No im2col: taps are shifted loads from packed planes.
#include "pixels.h"

using namespace csb;

namespace {

#if CSB_REGISTERS >= 32
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif
constexpr int WIDTH = 3;  // vectors of pixels

struct Block {
    int64_t offset;   // floats from the strip's first pixel to the block's first channel and tap
    int32_t channels;
};

struct Plan {
    Space space;
    int rows, groups_per_row, groups;  // output channels of a group is ROWS or fewer
    int64_t step;                      // floats between channels
    std::vector<int32_t> order, starts;  // starts: blocks of each block row
    std::vector<Block> blocks;
    std::vector<int64_t> panels;       // first weight of each group
    std::vector<float> weights, bias;  // [group][block][channel][ROWS]

    int64_t scratch() const {
        return space.direct ? 0 : round_up(space.g.cin * space.planes_per_channel * space.plane + 64, 1024);
    }
    int first_channel(int group) const {
        return group / groups_per_row * rows + group % groups_per_row * ROWS;
    }
    int channels(int group) const {
        const int in_row = rows - group % groups_per_row * ROWS;
        return std::min(std::min(ROWS, in_row), space.g.cout - first_channel(group));
    }
};

// Pixels of a tile: P vectors, and with Extra one more whose sums lie on lanes of output channels
// (7x7 and 14x14 images are 48 + 1 and 4 x (48 + 1) pixels).
template <int V, int P, bool Extra>
void run_group(const Plan &plan, int group, const float *base, const Targets &to, const float *residual,
               float *out) {
    Vec<V> acc[ROWS][P];
    const float *bias = plan.bias.data() + int64_t(group) * ROWS;
    Vec<ROWS> last = load<ROWS>(bias);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) acc[r][p] = Vec<V>{} + bias[r];
    const int row = group / plan.groups_per_row;
    const float *w = plan.weights.data() + plan.panels[group];
    const int64_t step = plan.step;
    for (int b = plan.starts[row]; b < plan.starts[row + 1]; b++) {
        const float *x = base + plan.blocks[b].offset;
        for (int c = plan.blocks[b].channels; c > 0; c--) {
            Vec<V> in[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) in[p] = load<V>(x + p * V);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const Vec<V> value = Vec<V>{} + w[r];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) acc[r][p] += value * in[p];
            }
            if constexpr (Extra) last += load<ROWS>(w) * x[P * V];
            x += step;
            w += ROWS;
        }
    }
    const int first = plan.first_channel(group), count = plan.channels(group);
    const int64_t pixels = plan.space.pixels();
    alignas(64) float sums[ROWS * P * V];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) store<V>(sums + (r * P + p) * V, acc[r][p]);
    for (int r = 0; r < count; r++) {
        for (int p = 0; p < P; p++)
            finish<V>(plan.space, to, p, (first + r) * pixels, load<V>(sums + (r * P + p) * V), residual, out);
        if constexpr (Extra) {
            const int64_t at = to.at[P - 1].offset + V + (first + r) * pixels;
            out[at] = activate_one(last[r] + (residual ? residual[at] : 0.0f), plan.space.g.activation);
        }
    }
}

typedef void (*GroupFunction)(const Plan &, int, const float *, const Targets &, const float *, float *);
template <int V> GroupFunction group_function(int p, bool extra) {
    static const GroupFunction plain[] = {run_group<V, 1, false>, run_group<V, 2, false>, run_group<V, 3, false>};
    static const GroupFunction more[] = {run_group<V, 1, true>, run_group<V, 2, true>, run_group<V, 3, true>};
    return (extra ? more : plain)[p - 1];
}

struct Tile {
    int pixel, vectors;
    bool extra;
    Targets to;
    GroupFunction run;
};

// Cuts the pixels of a strip into whole vectors, with up to one pixel more a tile. Where that does
// not come out even, the last vector is moved back over pixels that are then computed twice; a
// packed strip below one vector is masked.
std::vector<Tile> tiles_of(const Space &s, const Strip &strip) {
    const int pixels = strip.lines * s.pitch, whole = pixels / s.lanes, rest = pixels % s.lanes;
    const bool one_image = !s.pointwise || s.direct;
    const int count = int(divide_up(whole, WIDTH));
    const bool extras = rest > 0 && rest <= count && one_image;
    std::vector<Tile> tiles;
    auto add = [&](int pixel, int vectors, bool extra) {
        tiles.push_back({pixel, vectors, extra, targets(s, strip, pixel, vectors),
                         s.lanes == CSB_WIDE ? group_function<CSB_WIDE>(vectors, extra)
                                             : group_function<CSB_NARROW>(vectors, extra)});
        return pixel + vectors * s.lanes + extra;
    };
    int pixel = 0;
    for (int i = 0; i < count; i++) {
        int a, b;
        share_out(whole, 1, count, i, a, b);
        pixel = add(pixel, b - a, extras && i < rest);
    }
    if (rest > 0 && !extras) add(whole > 0 && one_image ? pixels - s.lanes : pixel, 1, false);
    return tiles;
}

// One strip for groups [begin, end): the weights of a group stay near while its tiles pass.
void run_strip(const Plan &plan, const Strip &strip, int begin, int end, const float *x,
               const float *residual, float *out, float *scratch) {
    const Space &s = plan.space;
    const float *base = scratch;
    if (s.direct)
        base = x + int64_t(strip.image) * s.g.cin * s.plane + int64_t(strip.first) * s.pitch;
    else
        pack(s, strip, x, plan.order.data(), s.g.cin, scratch);
    const std::vector<Tile> tiles = tiles_of(s, strip);
    for (int group = begin; group < end; group++)
        for (const Tile &tile : tiles) tile.run(plan, group, base + tile.pixel, tile.to, residual, out);
}

thread_local Arena arena;

}  // namespace

extern "C" {

// values: [blocks, rows, columns]; starts: blocks of each block row; columns: block column =
// tap * ceil(cin / columns) + channel block.
void *block_create(const Geometry *geometry, int32_t rows, int32_t columns, const float *values,
                   const int32_t *starts, const int32_t *block_columns, const float *bias) {
    Plan *plan = new Plan;
    const Geometry &g = *geometry;
    Space &s = plan->space = make_space(g, false);
    const int64_t l2 = g.l2_bytes ? g.l2_bytes : (s.pointwise ? 512 : 800) << 10;
    const int64_t line = int64_t(g.cin) * s.planes_per_channel * s.pitch * 4;
    s.set_strip(std::min<int64_t>(s.lines, std::max<int64_t>(s.pointwise ? 2 * WIDTH * s.lanes : 1, l2 / line - s.halo)));
    for (int k = 0; k < g.cin; k++) plan->order.push_back(k);
    plan->rows = rows;
    plan->groups_per_row = int(divide_up(rows, ROWS));
    const int block_rows = int(divide_up(g.cout, rows)), channel_blocks = int(divide_up(g.cin, columns));
    plan->groups = 0;
    plan->step = s.planes_per_channel * s.plane;
    plan->starts.assign(starts, starts + block_rows + 1);
    for (int b = 0; b < starts[block_rows]; b++) {
        const int tap = block_columns[b] / channel_blocks, k = block_columns[b] % channel_blocks * columns;
        plan->blocks.push_back({s.offset(k, tap / g.kw, tap % g.kw) / 4, std::min(columns, g.cin - k)});
    }
    for (int row = 0; row < block_rows; row++)
        for (int in_row = 0; in_row < plan->groups_per_row; in_row++) {
            const int group = plan->groups;
            if (plan->first_channel(group) >= g.cout) break;  // only the last block row is ragged
            plan->groups++;
            const int first = plan->first_channel(group), count = plan->channels(group);
            plan->panels.push_back(int64_t(plan->weights.size()));
            for (int r = 0; r < ROWS; r++) plan->bias.push_back(r < count ? bias[first + r] : 0.0f);
            for (int b = starts[row]; b < starts[row + 1]; b++)
                for (int c = 0; c < plan->blocks[b].channels; c++)
                    for (int r = 0; r < ROWS; r++)
                        plan->weights.push_back(
                            r < count ? values[(int64_t(b) * rows + in_row * ROWS + r) * columns + c] : 0.0f);
        }
    return plan;
}

void block_destroy(void *plan) { delete static_cast<Plan *>(plan); }

int64_t block_bytes(const void *p) {
    const Plan &plan = *static_cast<const Plan *>(p);
    return int64_t(plan.weights.size() * 4 + plan.blocks.size() * sizeof(Block) + plan.starts.size() * 4
                   + plan.bias.size() * 4);
}

// Lanes, vectors of a tile, channel chunks, whether the input is read in place, floats a thread.
void block_describe(const void *p, int32_t *to) {
    const Plan &plan = *static_cast<const Plan *>(p);
    const int32_t values[] = {plan.space.lanes, WIDTH, 1, plan.space.direct, int32_t(plan.scratch())};
    std::copy(values, values + 5, to);
}

void block_run(const void *p, const float *x, const float *residual, float *out, int32_t threads) {
    const Plan &plan = *static_cast<const Plan *>(p);
    const Space &s = plan.space;
    const int64_t each = plan.scratch();
    float *memory = arena.get(each * threads + 1024);
#pragma omp parallel num_threads(threads)
    {
        const int me = thread_index();
        const Share share = share_of(s, 2 * WIDTH, me, thread_count());
        int begin, end;
        share_out(plan.groups, 1, share.parts, share.part, begin, end);
        each_strip(s, share, [&](const Strip &strip) {
            run_strip(plan, strip, begin, end, x, residual, out, memory + me * each);
        });
    }
}
}
