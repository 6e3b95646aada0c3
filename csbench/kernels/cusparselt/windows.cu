// The pixels that a convolution reads, side by side for each output pixel: NHWC in, a matrix
// [pixels][TAPS_H x TAPS_W taps][channels] out, zeros outside the image and in rows of padding.
//
// Compile with -DTAPS_H and -DTAPS_W, the window. A piece is 16 bytes of a pixel's channels; 2^n
// threads share an output pixel, each copies its pieces of all taps, all loads before the stores.

struct Windows {
    int images, height, width;          // of the input
    int out_height, out_width, pixels;  // rows of the matrix, its padding included
    int stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int pieces, lanes_log;
};

constexpr int TAPS = TAPS_H * TAPS_W;

extern "C" __global__ void __launch_bounds__(256)
    windows(const uint4* __restrict__ x, uint4* __restrict__ out, const Windows w) {
    const long long thread = blockIdx.x * 256LL + threadIdx.x;
    const int lanes = 1 << w.lanes_log, pixel = int(thread >> w.lanes_log);
    if (pixel >= w.pixels) return;
    const int image = pixel / (w.out_height * w.out_width);
    const int within = pixel - image * w.out_height * w.out_width;
    const int out_y = within / w.out_width, out_x = within - out_y * w.out_width;
    const int first_y = out_y * w.stride_y - w.pad_y, first_x = out_x * w.stride_x - w.pad_x;
    uint4* to = out + (long long)pixel * TAPS * w.pieces;
    for (int piece = threadIdx.x & (lanes - 1); piece < w.pieces; piece += lanes) {
        uint4 taps[TAPS];
#pragma unroll
        for (int t = 0; t < TAPS; ++t) {
            const int y = first_y + t / TAPS_W * w.dilation_y;
            const int c = first_x + t % TAPS_W * w.dilation_x;
            const bool inside = image < w.images && unsigned(y) < unsigned(w.height) &&
                                unsigned(c) < unsigned(w.width);
            taps[t] = make_uint4(0, 0, 0, 0);
            if (inside)
                taps[t] = x[(((long long)image * w.height + y) * w.width + c) * w.pieces + piece];
        }
#pragma unroll
        for (int t = 0; t < TAPS; ++t) to[t * w.pieces + piece] = taps[t];
    }
}
