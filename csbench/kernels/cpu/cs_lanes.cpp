// Complementary Sparsity with output channels on the vector lanes (AVX-512).
//
// The M candidates of a group are neighbours after a permutation of the input channels, and M
// divides 16: one vector of 16 channels of a pixel holds the candidates of 16/M groups. For 16
// output channels a permutation instruction picks for each lane the channel that this output
// channel kept, and one multiply-add uses it. Two instructions for 16 kept weights, whatever M is;
// on Zen 4 the shuffle and multiply units together sustain three quarters of the peak.
// Activations are channels_last; 7 pixels times 48 output channels stay in registers.
#include "pixels.h"

using namespace csb;

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__)

namespace {

constexpr int LANES = 16, PIXELS = 7, BLOCKS = 3;
constexpr int64_t CACHED_WEIGHTS = 700 << 10;  // bytes that stay in a core's second-level cache

struct Plan {
    Geometry g;
    int groups;                    // of M channels in a vector
    int rounds;                    // log2 M if a riffle permutes the channels; -1: by `order`
    bool in_place;                 // the channels need no permutation and no padding
    bool pointwise;
    int out_blocks, vectors;       // 16 output channels; 16 input channels
    int pitch;                     // pixels of a packed row
    int strip;                     // output rows (pointwise: pixels) that are packed at once
    std::vector<int32_t> order;
    std::vector<float> bias;
    std::vector<float> weights;    // [output block panel][tap][vector][group][block][lane]
    std::vector<uint32_t> choices;  // the same, four bits each: 8 groups in a word
    int64_t per_block, words;      // of one output block
    bool pixels_first;             // the weights fit the cache: pass them for each tile of pixels

    int64_t lines() const { return pointwise ? int64_t(g.batch) * g.oh * g.ow : int64_t(g.batch) * g.oh; }
    int rows_packed(int rows) const { return (rows - 1) * g.sh + (g.kh - 1) * g.dh + 1; }
    int64_t scratch() const {
        if (in_place) return 0;
        const int64_t pixels = pointwise ? strip : int64_t(rows_packed(strip)) * pitch;
        return round_up(pixels * g.cin, 1024);
    }
};

// One perfect riffle of V vectors: element i goes to 2i modulo (16 V - 1).
template <int V> inline void riffle(__m512 (&a)[V]) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    __m512 b[V];
#pragma GCC unroll 16
    for (int k = 0; k < V / 2; k++) {
        b[2 * k] = _mm512_permutex2var_ps(a[k], low, a[k + V / 2]);
        b[2 * k + 1] = _mm512_permutex2var_ps(a[k], high, a[k + V / 2]);
    }
#pragma GCC unroll 16
    for (int k = 0; k < V; k++) a[k] = b[k];
}

// to[g * M + j] = from[j * step + g] for 16 V / M values of g: R = log2 M riffles.
template <int V, int R> inline void transpose(float *to, const float *from, int64_t step) {
    __m512 a[V];
#pragma GCC unroll 16
    for (int k = 0; k < V; k++) a[k] = _mm512_loadu_ps(from + k * step);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) riffle<V>(a);
#pragma GCC unroll 16
    for (int k = 0; k < V; k++) _mm512_storeu_ps(to + k * 16, a[k]);
}

template <int R> void transpose_columns(float *to, const float *from, int channels) {
    constexpr int M = 1 << R;
    for (int g = 0; g < channels / M; g += 16) transpose<M, R>(to + g * M, from + g, channels / M);
}

// The channels of one pixel, candidates of a group side by side.
inline void permute(const Plan &plan, float *to, const float *from) {
    const int channels = plan.g.cin, rounds = plan.rounds;
    if (rounds == 0) std::memcpy(to, from, size_t(channels) * 4);
    else if (rounds > 0 && (channels >> rounds) % 16 == 0) {
        if (rounds == 1) transpose_columns<1>(to, from, channels);
        else if (rounds == 2) transpose_columns<2>(to, from, channels);
        else if (rounds == 3) transpose_columns<3>(to, from, channels);
        else transpose_columns<4>(to, from, channels);
    }
    else if (rounds == 3 && channels == 64) transpose<4, 3>(to, from, 16);
    else if (rounds == 4 && channels == 64) transpose<4, 4>(to, from, 16);
    else if (rounds == 4 && channels == 128) transpose<8, 4>(to, from, 16);
    else for (int i = 0; i < channels; i++) to[i] = from[plan.order[i]];
}

// Pixels [begin, end) of a pointwise convolution, counted over the batch.
void pack_pixels(const Plan &plan, int64_t begin, int64_t end, const float *x, float *to) {
    const Geometry &g = plan.g;
    const int64_t pixels = int64_t(g.oh) * g.ow;
    for (int64_t q = begin; q < end; q++, to += g.cin) {
        const int64_t image = q / pixels, row = q % pixels / g.ow, column = q % g.ow;
        permute(plan, to, x + ((image * g.height + row * g.sh) * g.width + column * g.sw) * g.cin);
    }
}

// The input of output rows [row, row + rows) of an image, with its padding.
void pack_rows(const Plan &plan, int64_t image, int row, int rows, const float *x, float *to) {
    const Geometry &g = plan.g;
    const int first = row * g.sh - g.ph;
    for (int q = 0; q < plan.rows_packed(rows); q++) {
        const int h = first + q;
        float *line = to + int64_t(q) * plan.pitch * g.cin;
        if (h < 0 || h >= g.height) {
            std::memset(line, 0, size_t(plan.pitch) * g.cin * 4);
            continue;
        }
        const float *from = x + (image * g.height + h) * g.width * g.cin;
        const int right = std::max(0, plan.pitch - g.pw - g.width);
        std::memset(line, 0, size_t(g.pw) * g.cin * 4);
        for (int w = 0; w < plan.pitch - g.pw - right; w++)
            permute(plan, line + int64_t(g.pw + w) * g.cin, from + int64_t(w) * g.cin);
        std::memset(line + int64_t(plan.pitch - right) * g.cin, 0, size_t(right) * g.cin * 4);
    }
}

struct Job {
    const Plan *plan;
    const float *x;           // packed input of the first pixel and tap
    int64_t step;             // floats between neighbouring pixels of the output
    int64_t line;             // floats between packed rows
    int block;                // first of the output blocks
    int64_t pixel;            // of the output, counted over the batch
    const float *residual;
    float *out;
};

inline __mmask16 lanes_below(int count) {
    return __mmask16(count >= LANES ? 0xffff : (1 << count) - 1);
}

// All residuals are read before the first result is written: rows of the two tensors are often
// a multiple of 4 KiB apart, and a load waits for an earlier store that looks like its address.
template <int P, int Q> inline void finish_tile(const Job &j, __m512 (&acc)[P][Q]) {
    const Geometry &g = j.plan->g;
    const __m512 zero = _mm512_setzero_ps(), six = _mm512_set1_ps(6);
    const int64_t first = j.pixel * g.cout + j.block * LANES;
    const bool whole = (j.block + Q) * LANES <= g.cout;
    if (j.residual)
#pragma GCC unroll 7
        for (int p = 0; p < P; p++)
#pragma GCC unroll 3
            for (int q = 0; q < Q; q++) {
                const float *from = j.residual + first + p * int64_t(g.cout) + q * LANES;
                const __m512 more = whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(
                    lanes_below(g.cout - (j.block + q) * LANES), from);
                acc[p][q] = _mm512_add_ps(acc[p][q], more);
            }
#pragma GCC unroll 7
    for (int p = 0; p < P; p++)
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) {
            float *to = j.out + first + p * int64_t(g.cout) + q * LANES;
            __m512 value = acc[p][q];
            // The second operand is returned when one is NaN.
            if (g.activation != NONE) value = _mm512_max_ps(zero, value);
            if (g.activation == RELU6) value = _mm512_min_ps(six, value);
            if (whole) _mm512_storeu_ps(to, value);
            else _mm512_mask_storeu_ps(to, lanes_below(g.cout - (j.block + q) * LANES), value);
        }
}

// P pixels times Q blocks of 16 output channels.
template <int P, int Q> void run_tile(const Job &j) {
    const Plan &plan = *j.plan;
    const Geometry &g = plan.g;
    __m512 acc[P][Q];
#pragma GCC unroll 3
    for (int q = 0; q < Q; q++) {
        const __m512 bias = _mm512_loadu_ps(plan.bias.data() + (j.block + q) * LANES);
#pragma GCC unroll 7
        for (int p = 0; p < P; p++) acc[p][q] = bias;
    }
    const float *w = plan.weights.data() + j.block * plan.per_block;
    const uint32_t *c = plan.choices.data() + j.block * plan.words;
    __m512i pick[Q];
    int left = 0;
    for (int r = 0; r < g.kh; r++)
        for (int s = 0; s < g.kw; s++) {
            const float *x = j.x + r * g.dh * j.line + int64_t(s) * g.dw * g.cin;
            for (int v = 0; v < plan.vectors; v++, x += LANES)
                for (int n = 0; n < plan.groups; n++, w += Q * LANES) {
                    // A permutation looks at the low four bits of its index.
                    if (left == 0) {
#pragma GCC unroll 3
                        for (int q = 0; q < Q; q++) pick[q] = _mm512_loadu_si512(c + q * LANES);
                        c += Q * LANES;
                        left = 8;
                    } else {
#pragma GCC unroll 3
                        for (int q = 0; q < Q; q++) pick[q] = _mm512_srli_epi32(pick[q], 4);
                    }
                    left--;
                    __m512 weight[Q];
#pragma GCC unroll 3
                    for (int q = 0; q < Q; q++) weight[q] = _mm512_loadu_ps(w + q * LANES);
                    __builtin_prefetch(w + 512);
#pragma GCC unroll 7
                    for (int p = 0; p < P; p++) {
                        const __m512 in = _mm512_loadu_ps(x + p * j.step);
#pragma GCC unroll 3
                        for (int q = 0; q < Q; q++)
                            acc[p][q] = _mm512_fmadd_ps(_mm512_permutexvar_ps(pick[q], in), weight[q], acc[p][q]);
                    }
                }
        }
    finish_tile<P, Q>(j, acc);
}

typedef void (*TileFunction)(const Job &);
template <int Q> constexpr TileFunction TILES[PIXELS] = {
    run_tile<1, Q>, run_tile<2, Q>, run_tile<3, Q>, run_tile<4, Q>,
    run_tile<5, Q>, run_tile<6, Q>, run_tile<7, Q>,
};
TileFunction tile_function(int p, int q) {
    return (q == 1 ? TILES<1> : q == 2 ? TILES<2> : TILES<3>)[p - 1];
}

// A run of pixels of one packed row, for output blocks [begin, end).
void run_pixels(const Job &row, int count, int begin, int end) {
    const int tiles = int(divide_up(count, PIXELS));
    auto run = [&](int block, int i) {
        int a, b;
        share_out(count, 1, tiles, i, a, b);
        Job job = row;
        job.x += a * row.step;
        job.pixel += a;
        job.block = block;
        tile_function(b - a, std::min(BLOCKS, end - block))(job);
    };
    if (row.plan->pixels_first) {
        for (int i = 0; i < tiles; i++)
            for (int block = begin; block < end; block += BLOCKS) run(block, i);
    } else {
        for (int block = begin; block < end; block += BLOCKS)
            for (int i = 0; i < tiles; i++) run(block, i);
    }
}

// Lines [begin, end) of the output, cut into strips that are packed at once.
void run_lines(const Plan &plan, int64_t begin, int64_t end, int block0, int block1, const float *x,
               const float *residual, float *out, float *scratch) {
    const Geometry &g = plan.g;
    while (begin < end) {
        if (plan.pointwise) {
            const int count = int(std::min<int64_t>(plan.strip, end - begin));
            const float *base = scratch;
            if (plan.in_place) base = x + begin * g.cin;
            else pack_pixels(plan, begin, begin + count, x, scratch);
            run_pixels({&plan, base, g.cin, 0, 0, begin, residual, out}, count, block0, block1);
            begin += count;
            continue;
        }
        const int64_t image = begin / g.oh;
        const int row = int(begin % g.oh);
        const int rows = int(std::min<int64_t>({plan.strip, end - begin, g.oh - row}));
        pack_rows(plan, image, row, rows, x, scratch);
        const int64_t line = int64_t(plan.pitch) * g.cin;
        const int panel = plan.pixels_first ? block1 - block0 : BLOCKS;
        for (int block = block0; block < block1; block += panel)
            for (int r = 0; r < rows; r++)
                run_pixels({&plan, scratch + r * g.sh * line, int64_t(g.sw) * g.cin, line, 0,
                            (begin + r) * g.ow, residual, out},
                           g.ow, block, std::min(block + panel, block1));
        begin += rows;
    }
}

thread_local Arena arena;

}  // namespace

extern "C" {

int32_t cs_lanes_available() { return 1; }

// weight: OIHW; order: the input channel at each permuted position, groups of m side by side,
// where m divides 16; riffled: order[g * m + j] = j * (cin / m) + g. 16 must divide cin.
void *cs_lanes_create(const Geometry *geometry, const float *weight, const float *bias,
                      const int32_t *order, int32_t m, int32_t riffled) {
    Plan *plan = new Plan;
    const Geometry &g = plan->g = *geometry;
    plan->order.assign(order, order + g.cin);
    plan->groups = LANES / m;
    plan->rounds = !riffled ? -1 : m == 1 ? 0 : m == 2 ? 1 : m == 4 ? 2 : m == 8 ? 3 : 4;
    plan->pointwise = g.kh == 1 && g.kw == 1 && g.ph == 0 && g.pw == 0;
    plan->in_place = plan->pointwise && plan->rounds == 0 && g.sh == 1 && g.sw == 1;
    plan->out_blocks = int(divide_up(g.cout, LANES));
    plan->vectors = g.cin / LANES;
    plan->pitch = (g.ow - 1) * g.sw + (g.kw - 1) * g.dw + 1;
    const int64_t l2 = g.l2_bytes ? g.l2_bytes : 256 << 10;
    const int64_t line = int64_t(g.cin) * 4 * (plan->pointwise ? 1 : plan->pitch * g.sh);
    plan->strip = int(std::min<int64_t>(plan->pointwise ? 1 << 20 : g.oh, std::max<int64_t>(
        plan->pointwise ? PIXELS : 1, l2 / line)));
    if (plan->pointwise) plan->strip = plan->strip / PIXELS * PIXELS;
    plan->bias.assign(size_t(plan->out_blocks) * LANES, 0.0f);
    std::copy(bias, bias + g.cout, plan->bias.begin());
    plan->per_block = int64_t(g.kh) * g.kw * plan->vectors * plan->groups * LANES;
    plan->words = divide_up(plan->per_block / LANES, 8) * LANES;
    plan->weights.assign(size_t(plan->per_block * plan->out_blocks), 0.0f);
    plan->choices.assign(size_t(plan->words * plan->out_blocks), 0);
    plan->pixels_first = (plan->weights.size() + plan->choices.size()) * 4 <= size_t(CACHED_WEIGHTS);
    const int taps = g.kh * g.kw;
    for (int oc = 0; oc < g.cout; oc++) {
        const int block = oc / LANES, panel = block / BLOCKS * BLOCKS;
        const int width = std::min(BLOCKS, plan->out_blocks - panel), lane = (block - panel) * LANES + oc % LANES;
        for (int t = 0; t < taps; t++)
            for (int k = 0; k < g.cin; k++) {
                const float value = weight[(int64_t(oc) * g.cin + order[k]) * taps + t];
                if (value == 0) continue;
                const int64_t group = (int64_t(t) * plan->vectors + k / LANES) * plan->groups + k % LANES / m;
                plan->weights[panel * plan->per_block + group * width * LANES + lane] = value;
                plan->choices[panel * plan->words + group / 8 * width * LANES + lane] |= uint32_t(k % LANES) << group % 8 * 4;
            }
    }
    return plan;
}

void cs_lanes_destroy(void *plan) { delete static_cast<Plan *>(plan); }

int64_t cs_lanes_bytes(const void *p) {
    const Plan &plan = *static_cast<const Plan *>(p);
    return int64_t(plan.weights.size() * 4 + plan.choices.size() * 4 + plan.bias.size() * 4 + plan.order.size() * 4);
}

// Lanes, pixels of a tile, output channels of a tile, whether the input is read in place, floats a thread.
void cs_lanes_describe(const void *p, int32_t *to) {
    const Plan &plan = *static_cast<const Plan *>(p);
    const int32_t values[] = {LANES, PIXELS, BLOCKS * LANES, plan.in_place, int32_t(plan.scratch())};
    std::copy(values, values + 5, to);
}

// x, residual and out are channels_last.
void cs_lanes_run(const void *p, const float *x, const float *residual, float *out, int32_t threads) {
    const Plan &plan = *static_cast<const Plan *>(p);
    float *memory = arena.get(plan.scratch() * threads + 1024);
#pragma omp parallel num_threads(threads)
    {
        const int me = thread_index(), all = thread_count();
        // Pixels are split where there are enough; else the output blocks, each with its own copy
        // of the packed input.
        const int64_t lines = plan.lines(), least = plan.pointwise ? 8 * PIXELS : 4;
        int groups = all;
        while (groups > 1 && (all % groups || lines < least * groups)) groups--;
        const int parts = all / groups;
        const int64_t unit = plan.pointwise ? PIXELS : 1, units = divide_up(lines, unit);
        const int64_t begin = units * (me / parts) / groups * unit;
        const int64_t end = std::min(lines, units * (me / parts + 1) / groups * unit);
        int block0, block1;
        share_out(plan.out_blocks, BLOCKS, parts, me % parts, block0, block1);
        run_lines(plan, begin, end, block0, block1, x, residual, out, memory + me * plan.scratch());
    }
}
}

#else

extern "C" int32_t cs_lanes_available() { return 0; }

#endif
