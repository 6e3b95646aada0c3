// Pixels on the vector lanes: what the CPU convolutions share.
//
// A convolution is brought into a form where every tap of every channel is a plain contiguous
// load: `Space` names the pixels of a strip of the output, padded to whole vectors, and `pack`
// copies the input into planes, one for each (channel, row phase, kernel column), so that the
// value that tap (r, s) of channel c needs for pixel q stands at plane(c, r, s) + q.
// A pointwise convolution whose planes are whole vectors is read where it stands.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512VL__)
#define CSB_WIDE 16   // widest vector, in floats
#define CSB_NARROW 8  // the other choice, where it wastes fewer lanes
#define CSB_REGISTERS 32
#elif defined(__AVX__)
#define CSB_WIDE 8
#define CSB_NARROW 8
#define CSB_REGISTERS 16
#else
#define CSB_WIDE 4
#define CSB_NARROW 4
#if defined(__aarch64__)
#define CSB_REGISTERS 32
#else
#define CSB_REGISTERS 16
#endif
#endif

namespace csb {

template <int V> struct VectorOf;
template <> struct VectorOf<4> {
    typedef float type __attribute__((vector_size(16), aligned(4), may_alias));
};
template <> struct VectorOf<8> {
    typedef float type __attribute__((vector_size(32), aligned(4), may_alias));
};
template <> struct VectorOf<16> {
    typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
};
template <int V> using Vec = typename VectorOf<V>::type;

template <int V> inline Vec<V> load(const void *p) { return *static_cast<const Vec<V> *>(p); }
template <int V> inline void store(void *p, Vec<V> v) { *static_cast<Vec<V> *>(p) = v; }

// The first `count` lanes, 0 < count < V; the others are neither read nor written.
template <int V> inline Vec<V> load_part(const float *p, int count) {
#if defined(__AVX512F__) && defined(__AVX512VL__)
    if constexpr (V == 16) return (Vec<V>)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
    if constexpr (V == 8) return (Vec<V>)_mm256_maskz_loadu_ps((__mmask8)((1u << count) - 1), p);
#endif
    alignas(64) float lanes[V] = {};
    for (int i = 0; i < count; i++) lanes[i] = p[i];
    return load<V>(lanes);
}
template <int V> inline void store_part(float *p, Vec<V> v, int count) {
#if defined(__AVX512F__) && defined(__AVX512VL__)
    if constexpr (V == 16) return _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
    if constexpr (V == 8) return _mm256_mask_storeu_ps(p, (__mmask8)((1u << count) - 1), (__m256)v);
#endif
    alignas(64) float lanes[V];
    store<V>(lanes, v);
    for (int i = 0; i < count; i++) p[i] = lanes[i];
}

enum Activation { NONE = 0, RELU = 1, RELU6 = 2 };

template <int V> inline Vec<V> activate(Vec<V> v, int activation) {
    const Vec<V> zero = {}, six = zero + 6.0f;
    // Written so that NaN stays NaN: a wrong input must not turn into a plausible zero.
    if (activation != NONE) v = v < zero ? zero : v;
    if (activation == RELU6) v = v > six ? six : v;
    return v;
}

inline float activate_one(float v, int activation) {
    if (activation != NONE) v = v < 0 ? 0 : v;
    return activation == RELU6 && v > 6 ? 6 : v;
}

struct Geometry {  // mirrored field by field in csbench/backends/cpu_native.py
    int32_t batch, cin, height, width, cout, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow, activation;
    int32_t tile, l1_bytes, l2_bytes, narrow;  // for experiments; 0: chosen here
};

// How the output's pixels are laid on lanes, for a whole layer.
//
// A `line` is what work is cut into: an output row; of a pointwise convolution a vector or, for
// kernels that need no alignment, a pixel.
// A strip is a run of lines of one image; its input is packed and its pixels are then contiguous.
struct Space {
    Geometry g;
    int lanes;               // floats in a vector
    bool pointwise;          // one tap, no padding
    bool direct;             // read the input where it stands
    int images, lines;       // pointwise, not direct: the batch is one image
    int pitch;               // padded pixels of a line
    int row_classes;         // input rows that a tap can meet, modulo the stride
    int class_of[64];        // per kernel row: its class, counted without gaps
    int halo;                // lines below the strip that the taps reach
    int planes_per_channel;
    int strip_lines;         // at most
    int64_t plane;           // floats in one packed plane

    int64_t pixels() const { return int64_t(g.oh) * g.ow; }
    int vectors(int lines_) const { return (lines_ * pitch + lanes - 1) / lanes; }
    void set_strip(int lines_) {
        strip_lines = lines_;
        if (direct) {
            plane = int64_t(g.height) * g.width;
            return;
        }
        const int64_t floats = int64_t(lines_ + halo) * pitch + (pointwise && pitch > 1 ? 0 : lanes);
        plane = (floats + 15) / 16 * 16;
        if (plane / 16 % 2 == 0) plane += 16;  // channels must not fall on the same cache sets
    }
    // Bytes from the first plane to what tap (r, s) of the k-th channel needs for pixel 0.
    int64_t offset(int k, int r, int s) const {
        if (pointwise) return k * plane * 4;
        const int64_t which = (int64_t(k) * row_classes + class_of[r]) * g.kw + s;
        return (which * plane + int64_t(r * g.dh / g.sh) * pitch) * 4;
    }
    // Bytes of one channel that a tile of so many vectors reads.
    int64_t touched(int tile) const {
        return (int64_t(tile) * lanes + int64_t(halo) * pitch) * planes_per_channel * 4;
    }
};

struct Strip {
    int image, first, lines;
};

inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `aligned`: lines start at whole vectors, for kernels that load once for each multiply-add.
inline Space make_space(const Geometry &g, bool aligned) {
    Space s{};
    s.g = g;
    s.pointwise = g.kh == 1 && g.kw == 1 && g.ph == 0 && g.pw == 0;
    const int64_t run = s.pointwise ? g.batch * s.pixels() : aligned ? g.ow : s.pixels();
    auto lanes_used = [&](int v) { return double(run) / round_up(run, v); };
    bool narrow = aligned ? lanes_used(CSB_NARROW) > 1.03 * lanes_used(CSB_WIDE) : run < CSB_WIDE;
    if (g.narrow) narrow = g.narrow == 2;
    s.lanes = narrow ? CSB_NARROW : CSB_WIDE;
    s.direct = s.pointwise && g.sh == 1 && g.sw == 1 &&
               (aligned ? s.pixels() % s.lanes == 0 : s.pixels() >= s.lanes);
    s.images = s.pointwise && !s.direct ? 1 : g.batch;
    s.planes_per_channel = 1;
    if (s.pointwise) {
        s.pitch = aligned ? s.lanes : 1;
        s.lines = divide_up(s.pixels() * (s.direct ? 1 : g.batch), s.pitch);
        return s;
    }
    for (int r = 0; r < g.kh; r++) {
        int found = -1;
        for (int q = 0; q < r; q++)
            if (q * g.dh % g.sh == r * g.dh % g.sh) found = s.class_of[q];
        s.class_of[r] = found >= 0 ? found : s.row_classes++;
        s.halo = std::max(s.halo, r * g.dh / g.sh);
    }
    s.planes_per_channel = s.row_classes * g.kw;
    s.pitch = aligned ? round_up(g.ow, s.lanes) : g.ow;
    s.lines = g.oh;
    return s;
}

// Lines of a plane: to[q * pitch + i] = from[q * step + i * stride] for i in [first, last), zero for
// the rest of [0, pitch).
struct Lines {
    float *to;
    const float *from;
    int64_t pitch, step;
    int count, first, last, stride;
};

#if defined(__AVX512F__)
inline void copy_lines(const Lines &l) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    auto below = [](int64_t n) { return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1; };
    for (int64_t i = 0; i < l.pitch; i += 16) {
        const unsigned valid = below(l.last - i) & ~below(l.first - i);
        const __mmask16 kept = (__mmask16)below(l.pitch - i);
        const float *from = l.from + i * l.stride;
        float *to = l.to + i;
        if (l.stride == 1) {
            for (int q = 0; q < l.count; q++, from += l.step, to += l.pitch)
                _mm512_mask_storeu_ps(to, kept, _mm512_maskz_loadu_ps((__mmask16)valid, from));
        } else if (l.stride == 2) {  // lane i reads 2i: each bit of the mask at its even place
            const unsigned spread = _pdep_u32(valid, 0x55555555u);
            for (int q = 0; q < l.count; q++, from += l.step, to += l.pitch) {
                const __m512 low = _mm512_maskz_loadu_ps((__mmask16)spread, from);
                const __m512 high = _mm512_maskz_loadu_ps((__mmask16)(spread >> 16), from + 16);
                _mm512_mask_storeu_ps(to, kept, _mm512_permutex2var_ps(low, even, high));
            }
        } else {
            const __m512i index = _mm512_mullo_epi32(
                _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                _mm512_set1_epi32(l.stride));
            for (int q = 0; q < l.count; q++, from += l.step, to += l.pitch)
                _mm512_mask_storeu_ps(to, kept, _mm512_mask_i32gather_ps(
                    _mm512_setzero_ps(), (__mmask16)valid, index, from, 4));
        }
    }
}
#else
inline void copy_lines(const Lines &l) {
    for (int q = 0; q < l.count; q++) {
        float *to = l.to + q * l.pitch;
        const float *from = l.from + q * l.step;
        for (int i = 0; i < l.first; i++) to[i] = 0;
        if (l.stride == 1)
            for (int i = l.first; i < l.last; i++) to[i] = from[i];
        else
            for (int i = l.first; i < l.last; i++) to[i] = from[int64_t(i) * l.stride];
        for (int64_t i = l.last; i < l.pitch; i++) to[i] = 0;
    }
}
#endif

// The planes of one channel; the whole of each plane is written.
inline void pack_spatial(const Space &s, const Strip &strip, const float *channel, float *base) {
    const Geometry &g = s.g;
    const int lines = strip.lines + s.halo;
    for (int r = 0; r < g.kh; r++) {
        bool again = false;
        for (int q = 0; q < r; q++) again |= s.class_of[q] == s.class_of[r];
        if (again) continue;
        const int phase = r * g.dh % g.sh - g.ph;
        for (int c = 0; c < g.kw; c++) {
            float *plane = base + (int64_t(s.class_of[r]) * g.kw + c) * s.plane;
            const int shift = c * g.dw - g.pw;
            const int first = std::min<int>(g.ow, shift < 0 ? divide_up(-shift, g.sw) : 0);
            const int last = std::max<int>(first, std::min<int>(g.ow, divide_up(g.width - shift, g.sw)));
            // Input rows: those above and below the image are zero.
            const int h0 = strip.first * g.sh + phase;
            const int above = std::min<int>(lines, h0 < 0 ? divide_up(-h0, g.sh) : 0);
            const int below = std::max<int>(above, std::min<int>(lines, divide_up(g.height - h0, g.sh)));
            std::memset(plane, 0, size_t(above * s.pitch) * 4);
            copy_lines({plane + int64_t(above) * s.pitch,
                        channel + (h0 + int64_t(above) * g.sh) * g.width + shift, s.pitch,
                        int64_t(g.sh) * g.width, below - above, first, last, g.sw});
            std::memset(plane + int64_t(below) * s.pitch, 0, size_t(s.plane - int64_t(below) * s.pitch) * 4);
        }
    }
}

inline void pack_pointwise(const Space &s, const Strip &strip, const float *x, int channel, float *plane) {
    const Geometry &g = s.g;
    const int64_t begin = int64_t(strip.first) * s.pitch, all = g.batch * s.pixels();
    const int64_t end = std::min(all, begin + int64_t(strip.lines) * s.pitch);
    const bool whole = g.sw == 1 && g.sh == 1;
    int64_t q = begin;
    while (q < end) {
        const int64_t image = q / s.pixels(), p = q % s.pixels(), row = p / g.ow, column = p % g.ow;
        const float *from = x + (image * g.cin + channel) * g.height * g.width;
        int64_t count = std::min(end - q, s.pixels() - p), lines = 1;
        if (whole) {
            from += p;
        } else {  // whole rows at once where they begin
            from += row * g.sh * g.width + column * g.sw;
            if (column == 0 && count >= g.ow) {
                lines = count / g.ow;
                count = g.ow;
            } else {
                count = std::min<int64_t>(count, g.ow - column);
            }
        }
        copy_lines({plane + (q - begin), from, count, int64_t(g.sh) * g.width, int(lines), 0, int(count), g.sw});
        q += lines * count;
    }
    std::memset(plane + (q - begin), 0, size_t(s.plane - (q - begin)) * 4);
}

// Channels order[0..count) of a strip, one after the other.
inline void pack(const Space &s, const Strip &strip, const float *x, const int32_t *order, int count,
                 float *base) {
    for (int k = 0; k < count; k++) {
        float *to = base + int64_t(k) * s.planes_per_channel * s.plane;
        const int64_t size = int64_t(s.g.height) * s.g.width;
        if (s.pointwise) pack_pointwise(s, strip, x, order[k], to);
        else pack_spatial(s, strip, x + (int64_t(strip.image) * s.g.cin + order[k]) * size, to);
    }
}

// Where one vector of results goes, for output channel 0.
struct Target {
    int64_t offset;
    int32_t count;  // valid lanes; -1: the lanes belong to several images
};
constexpr int MAX_TILE = 14;
struct Targets {
    Target at[MAX_TILE];
    bool whole;  // every vector is full and follows the one before
    int64_t first_pixel, end_pixel;  // pointwise: counted over all images; the end of the strip
};

// `pixel`: the first, counted in the strip.
inline Targets targets(const Space &s, const Strip &strip, int pixel, int count) {
    const Geometry &g = s.g;
    const int64_t pixels = s.pixels(), image = int64_t(strip.image) * g.cout * pixels;
    Targets t{};
    t.whole = true;
    t.first_pixel = int64_t(strip.first) * s.pitch + pixel;
    t.end_pixel = std::min(int64_t(strip.first + strip.lines) * s.pitch, g.batch * pixels);
    for (int v = 0; v < count; v++) {
        const int64_t q = pixel + int64_t(v) * s.lanes;
        Target &to = t.at[v];
        int64_t left;
        if (s.pointwise) {
            const int64_t at = int64_t(strip.first) * s.pitch + q;  // over all images
            to.offset = image + at / pixels * g.cout * pixels + at % pixels;
            left = std::min(pixels - at % pixels, t.end_pixel - at);
            if (left < s.lanes && at + left < t.end_pixel) left = -1;
        } else if (s.pitch == g.ow) {
            to.offset = image + int64_t(strip.first) * g.ow + q;
            left = std::max<int64_t>(0, int64_t(strip.lines) * g.ow - q);
        } else {
            to.offset = image + (strip.first + q / s.pitch) * g.ow + q % s.pitch;
            left = std::max<int64_t>(0, g.ow - q % s.pitch);
        }
        to.count = int32_t(std::min<int64_t>(left, s.lanes));
        t.whole &= to.count == s.lanes && to.offset == t.at[0].offset + int64_t(v) * s.lanes;
    }
    return t;
}

// activation(v [+ residual]) to the output; `shift` is the output channel's distance in floats.
template <int V>
inline void finish(const Space &s, const Targets &t, int v, int64_t shift, Vec<V> value,
                   const float *residual, float *out) {
    const Target to = t.at[v];
    const int64_t at = to.offset + shift;
    if (to.count == V) {
        if (residual) value += load<V>(residual + at);
        store<V>(out + at, activate<V>(value, s.g.activation));
    } else if (to.count > 0) {
        if (residual) value += load_part<V>(residual + at, to.count);
        store_part<V>(out + at, activate<V>(value, s.g.activation), to.count);
    } else if (to.count < 0) {
        const int64_t pixels = s.pixels();
        alignas(64) float lanes[V];
        store<V>(lanes, value);
        for (int i = 0; i < V; i++) {
            const int64_t pixel = t.first_pixel + v * V + i;
            if (pixel >= t.end_pixel) break;
            const int64_t to_lane = pixel / pixels * s.g.cout * pixels + pixel % pixels + shift;
            out[to_lane] = activate_one(lanes[i] + (residual ? residual[to_lane] : 0.0f), s.g.activation);
        }
    }
}

// Memory that grows and stays: consecutive layers find it in the cache.
class Arena {
  public:
    float *get(int64_t floats) {
        if (floats > size_) {
            std::free(memory_);
            memory_ = static_cast<float *>(std::aligned_alloc(64, size_t((floats * 4 + 4095) / 4096 * 4096)));
            size_ = memory_ ? floats : 0;
        }
        return memory_;
    }
    ~Arena() { std::free(memory_); }

  private:
    float *memory_ = nullptr;
    int64_t size_ = 0;
};

inline void share_out(int total, int unit, int parts, int index, int &begin, int &end) {
    const int64_t units = divide_up(total, unit);
    begin = int(std::min<int64_t>(total, units * index / parts * unit));
    end = int(std::min<int64_t>(total, units * (index + 1) / parts * unit));
}

// Threads as a grid: groups of lines times groups of output channels. Splitting the pixels keeps
// each thread's input apart; where they are few, the output channels are split instead.
struct Share {
    int line0, line1;  // of images * lines
    int part, parts;   // of the output channels
};
inline Share share_of(const Space &s, int least_vectors, int index, int threads) {
    const int64_t total = int64_t(s.images) * s.lines;
    const int64_t vectors = total * s.pitch / s.lanes;
    int groups = threads;
    while (groups > 1 && (threads % groups || vectors / groups < least_vectors || total < groups)) groups--;
    Share share{};
    share.parts = threads / groups;
    share.part = index % share.parts;
    share_out(int(total), 1, groups, index / share.parts, share.line0, share.line1);
    // A kernel that reads in place needs a whole vector of an image: leave no crumbs of one.
    auto snap = [&](int line) {
        const int into = line % s.lines, left = s.lines - into;
        return into * s.pitch < s.lanes ? line - into : left * s.pitch < s.lanes ? line + left : line;
    };
    share.line0 = snap(share.line0);
    share.line1 = snap(share.line1);
    return share;
}

// Calls f(strip) for the lines of a share, cut at images and into even strips.
template <class F> void each_strip(const Space &s, const Share &share, F f) {
    for (int line = share.line0; line < share.line1;) {
        const int image = line / s.lines, first = line % s.lines;
        const int run = std::min(share.line1 - line, s.lines - first);
        const int count = int(divide_up(run, s.strip_lines));
        for (int i = 0; i < count; i++) {
            int a, b;
            share_out(run, 1, count, i, a, b);
            f(Strip{image, first + a, b - a});
        }
        line += run;
    }
}

inline int thread_index() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
inline int thread_count() {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

}  // namespace csb
