// Convolution with element-wise sparse weights: one broadcast weight times contiguous pixels.
//
// Runs on any CPU and for any M; cs_lanes.cpp is faster where AVX-512 is. For a tile of pixels (up
// to 14 vectors) held in registers, an output channel walks its list of (offset, value) entries;
// each is one vector load from a packed plane and one multiply-add for every vector of the tile. A
// core can do one such pair a cycle as long as the planes are in the first-level cache and aligned,
// so the input channels are cut into chunks whose planes fit there; all output channels pass over a
// chunk before the next, their sums waiting in memory. The channels of a group are packed next to
// each other, so that every output channel has equally many entries in every chunk.
#include "pixels.h"

using namespace csb;

namespace {

constexpr int AHEAD_BYTES = 1024;  // of the entries, which come from memory at low sparsity
constexpr int AHEAD_CHANNELS = 3;  // output channels whose residual and result are fetched early
constexpr int64_t L1_BYTES = 28 << 10;
constexpr int LEAST_KEPT = 6;  // weights of an output channel in a chunk

struct Entry {
    int32_t offset;  // bytes
    float value;
};

struct Plan {
    Space space;
    int tile, chunks, per_chunk;   // vectors; packed channels
    std::vector<int32_t> order;    // channel at each packed position
    std::vector<float> bias;
    std::vector<Entry> entries;    // [chunk][output channel]
    std::vector<int64_t> start;    // [chunk * cout + output channel]

    int64_t scratch() const {
        if (space.direct) return 0;
        return round_up(per_chunk * space.planes_per_channel * space.plane + 2 * CSB_WIDE, 1024);
    }
    int64_t sums() const {
        return round_up(int64_t(space.vectors(space.strip_lines) + MAX_TILE) * space.lanes * space.g.cout, 1024);
    }
};

struct Job {
    const Plan *plan;
    const char *x;
    const Targets *to;
    int chunk, begin, end;  // output channels
    float *sums;
    const float *residual;
    float *out;
};

template <int V, int P> void run_tile(const Job &j) {
    const Plan &plan = *j.plan;
    const int cout = plan.space.g.cout;
    const int64_t per_image = int64_t(plan.space.g.oh) * plan.space.g.ow;
    const bool first = j.chunk == 0, last = j.chunk == plan.chunks - 1;
    const int64_t *start = plan.start.data() + int64_t(j.chunk) * cout;
    for (int oc = j.begin; oc < j.end; oc++) {
        Vec<V> acc[P];
        float *sums = j.sums + int64_t(oc - j.begin) * (P * V);
        if (last) {  // what the next output channels will add to and write
            const int64_t soon = j.to->at[0].offset + (oc + AHEAD_CHANNELS) * per_image;
            if (oc + AHEAD_CHANNELS < j.end)
                for (int p = 0; p < P * V; p += 16) {
                    if (j.residual) __builtin_prefetch(j.residual + soon + p, 0, 3);
                    __builtin_prefetch(j.out + soon + p, 1, 3);
                }
        }
        if (first) {
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) acc[p] = Vec<V>{} + plan.bias[oc];
        } else {
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) acc[p] = load<V>(sums + p * V);
        }
        const Entry *e = plan.entries.data() + start[oc], *end = plan.entries.data() + start[oc + 1];
        for (; e != end; ++e) {
            const char *x = j.x + e->offset;
            __builtin_prefetch(reinterpret_cast<const char *>(e) + AHEAD_BYTES, 0, 0);
            const Vec<V> w = Vec<V>{} + e->value;
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) acc[p] += w * load<V>(x + p * V * 4);
        }
        if (!last) {
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) store<V>(sums + p * V, acc[p]);
        } else if (j.to->whole) {
            float *out = j.out + j.to->at[0].offset + oc * per_image;
            const float *residual = j.residual ? j.residual + j.to->at[0].offset + oc * per_image : nullptr;
            if (residual)
#pragma GCC unroll 16
                for (int p = 0; p < P; p++) acc[p] += load<V>(residual + p * V);
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) store<V>(out + p * V, activate<V>(acc[p], plan.space.g.activation));
        } else {
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) store<V>(sums + p * V, acc[p]);
            for (int p = 0; p < P; p++)
                finish<V>(plan.space, *j.to, p, oc * per_image, load<V>(sums + p * V), j.residual, j.out);
        }
    }
}

typedef void (*TileFunction)(const Job &);
template <int V> TileFunction tile_function(int p) {
    static const TileFunction table[] = {
        run_tile<V, 1>, run_tile<V, 2>, run_tile<V, 3>, run_tile<V, 4>, run_tile<V, 5>,
        run_tile<V, 6>, run_tile<V, 7>, run_tile<V, 8>, run_tile<V, 9>, run_tile<V, 10>,
        run_tile<V, 11>, run_tile<V, 12>, run_tile<V, 13>, run_tile<V, 14>,
    };
    return table[p - 1];
}

// One strip for output channels [begin, end): chunk by chunk, tile by tile.
void run_strip(const Plan &plan, const Strip &strip, int begin, int end, const float *x,
               const float *residual, float *out, float *scratch, float *sums) {
    const Space &s = plan.space;
    const int vectors = s.vectors(strip.lines), tiles = int(divide_up(vectors, plan.tile));
    for (int chunk = 0; chunk < plan.chunks; chunk++) {
        const float *base = scratch;
        const int k = chunk * plan.per_chunk;
        if (s.direct)
            base = x + int64_t(strip.image) * s.g.cin * s.plane + int64_t(strip.first) * s.pitch;
        else
            pack(s, strip, x, plan.order.data() + k, std::min(plan.per_chunk, s.g.cin - k), scratch);
        for (int i = 0; i < tiles; i++) {
            int a, b;
            share_out(vectors, 1, tiles, i, a, b);
            const Targets to = targets(s, strip, a * s.lanes, b - a);
            const Job job{&plan, reinterpret_cast<const char *>(base + int64_t(a) * s.lanes), &to,
                          chunk, begin, end, sums + int64_t(a) * s.lanes * (end - begin), residual, out};
            (s.lanes == CSB_WIDE ? tile_function<CSB_WIDE>(b - a)
                                 : tile_function<CSB_NARROW>(b - a))(job);
        }
    }
}

// As many vectors as the registers hold with room for the weight; channels in chunks that stay in
// the first-level cache, but not so few of them that the sums are moved for a handful of weights.
void choose(Plan &plan, double density, int unit) {
    const Space &s = plan.space;
    const Geometry &g = s.g;
    const int most = CSB_REGISTERS < 32 ? 10 : s.lanes == CSB_WIDE && CSB_WIDE == 16 ? 7 : MAX_TILE;
    plan.tile = std::min(g.tile ? std::min(g.tile, MAX_TILE) : most, s.vectors(s.lines));
    const int64_t touched = s.touched(plan.tile), l1 = g.l1_bytes ? g.l1_bytes : L1_BYTES;
    int64_t fits = l1 / touched;
    const int64_t wanted = int64_t(LEAST_KEPT / std::max(density * g.kh * g.kw, 1e-3)) + 1;
    fits = std::max(fits, std::min<int64_t>(wanted, 2 * l1 / touched));
    fits = std::max<int64_t>(1, fits / unit) * unit;
    const int64_t even = round_up(divide_up(g.cin, divide_up(g.cin, fits)), unit);
    plan.per_chunk = int(even);
    plan.chunks = int(divide_up(g.cin, even));
}

thread_local Arena arena;

}  // namespace

extern "C" {

// weight: OIHW; order: the input channel at each packed position; unit: positions that a chunk
// must not cut (the group size).
void *cs_create(const Geometry *geometry, const float *weight, const float *bias,
                const int32_t *order, int32_t unit) {
    Plan *plan = new Plan;
    const Geometry &g = *geometry;
    Space &s = plan->space = make_space(g, true);
    plan->order.assign(order, order + g.cin);
    plan->bias.assign(bias, bias + g.cout);
    const int64_t size = int64_t(g.cout) * g.cin * g.kh * g.kw;
    const double density = 1 - double(std::count(weight, weight + size, 0.0f)) / size;
    choose(*plan, density, unit);
    const int64_t l2 = g.l2_bytes ? g.l2_bytes : 256 << 10;
    const int64_t line = int64_t(s.pitch) * 4 * std::max(g.cout, plan->per_chunk * s.planes_per_channel);
    s.set_strip(s.pointwise ? plan->tile : std::min<int64_t>(s.lines, std::max<int64_t>(
        divide_up(int64_t(plan->tile) * s.lanes, s.pitch), l2 / line)));
    const int taps = g.kh * g.kw;
    for (int c = 0; c < plan->chunks; c++)
        for (int oc = 0; oc < g.cout; oc++) {
            plan->start.push_back(int64_t(plan->entries.size()));
            for (int k = c * plan->per_chunk; k < std::min(g.cin, (c + 1) * plan->per_chunk); k++)
                for (int t = 0; t < taps; t++) {
                    const float value = weight[(int64_t(oc) * g.cin + order[k]) * taps + t];
                    const int at = s.direct ? order[k] : k - c * plan->per_chunk;
                    if (value != 0) plan->entries.push_back({int32_t(s.offset(at, t / g.kw, t % g.kw)), value});
                }
        }
    plan->start.push_back(int64_t(plan->entries.size()));
    return plan;
}

void cs_destroy(void *plan) { delete static_cast<Plan *>(plan); }

int64_t cs_bytes(const void *p) {
    const Plan &plan = *static_cast<const Plan *>(p);
    return int64_t(plan.entries.size() * sizeof(Entry) + plan.start.size() * 8 + plan.bias.size() * 4);
}

// Lanes, vectors of a tile, channel chunks, whether the input is read in place, floats a thread.
void cs_describe(const void *p, int32_t *to) {
    const Plan &plan = *static_cast<const Plan *>(p);
    const int32_t values[] = {plan.space.lanes, plan.tile, plan.chunks, plan.space.direct, int32_t(plan.scratch() + plan.sums())};
    std::copy(values, values + 5, to);
}

void cs_run(const void *p, const float *x, const float *residual, float *out, int32_t threads) {
    const Plan &plan = *static_cast<const Plan *>(p);
    const Space &s = plan.space;
    const int64_t each = plan.scratch() + plan.sums();
    float *memory = arena.get(each * threads + 1024);
#pragma omp parallel num_threads(threads)
    {
        const int me = thread_index();
        const Share share = share_of(s, 8, me, thread_count());
        int begin, end;
        share_out(s.g.cout, 1, share.parts, share.part, begin, end);
        float *mine = memory + me * each;
        each_strip(s, share, [&](const Strip &strip) {
            run_strip(plan, strip, begin, end, x, residual, out, mine, mine + plan.scratch());
        });
    }
}
}
