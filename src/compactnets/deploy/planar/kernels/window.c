/* Depthwise convolution and pooling: each output plane has one input plane, which is padded first (padding.c).
 *
 * A register tile is N rows x X vectors. places: offsets of the window's positions in the padded plane. */
enum { DEPTHWISE = 0, MAXIMUM = 1, AVERAGE = 2 };
#define ACROSS (REGISTERS / 4) /* vectors of a tile: 4 or 8 */

INLINE void window_tile(const int kind, const int N, const int X, const float *weights, const float bias,
                        const float *padded, float *to, const float *times, const float *plus, const int32_t *places,
                        const int taps, const int width, const int pitch, const int first, const int last) {
    vec sum[2][ACROSS];
    const vec start = splat(kind == DEPTHWISE ? bias : kind == MAXIMUM ? -__builtin_inff() : 0.0f);
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int x = 0; x < X; x++) sum[n][x] = start;
    UNROLL for (int t = 0; t < taps; t++) {
        const float *place = padded + places[t];
        const vec w = splat(kind == DEPTHWISE ? weights[t] : 0.0f);
        UNROLL for (int n = 0; n < N; n++)
            UNROLL for (int x = 0; x < X; x++) {
                const vec value = load(place + n * pitch + x * VEC);
                sum[n][x] = kind == DEPTHWISE ? fma_(w, value, sum[n][x])
                            : kind == MAXIMUM ? max_(sum[n][x], value)
                                              : sum[n][x] + value;
            }
    }
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int x = 0; x < X; x++) {
            const int at = n * width + x * VEC;
            finish(kind == AVERAGE ? sum[n][x] * splat(1.0f / (float)taps) : sum[n][x], to + at,
                   times ? times + at : 0, plus ? plus + at : 0, first, last);
        }
}

/* N rows, from right to left: the last vector of a row spills into the next row, whose start is written after it. */
INLINE void window_rows(const int kind, const int N, const float *weights, const float bias, const float *padded,
                        float *to, const float *times, const float *plus, const int32_t *places, const int taps,
                        const int width, const int pitch, const int first, const int last) {
    const int vectors = (width + VEC - 1) / VEC;
    const int rest = (vectors - 1) % ACROSS + 1;
#define CALL(X, AT) \
    window_tile(kind, N, X, weights, bias, padded + (AT), to + (AT), times ? times + (AT) : 0, \
                plus ? plus + (AT) : 0, places, taps, width, pitch, first, last)
    CALL(rest, (vectors - rest) * VEC);
    for (int v = vectors - rest; v > 0; v -= ACROSS) CALL(ACROSS, (v - ACROSS) * VEC);
#undef CALL
}

INLINE void window(const float *weights, const float *biases, const float *from, float *arena, float *padded,
                   const int32_t *places, const int32_t *in, const int32_t *out, const int32_t *mul,
                   const int32_t *add, const int kind, const int planes, const int taps, const int height,
                   const int width, const int out_height, const int out_width, const int reach, const int top,
                   const int left, const int step_y, const int step_x, const int pitch, const int size,
                   const int exact, const int first, const int last) {
    const float margin = kind == MAXIMUM ? -__builtin_inff() : 0.0f;
    const range own = share(planes);
    clear(padded, step_y * step_x * size, margin);
    for (int c = own.begin; c < own.end; c++) {
        float *to = arena + out[c];
        const float *times = mul ? arena + mul[c] : 0, *plus = add ? arena + add[c] : 0;
        const float *w = kind == DEPTHWISE ? weights + c * taps : 0;
        const float bias = kind == DEPTHWISE ? biases[c] : 0.0f;
        pad_rows(padded, from + in[c], 0, (out_height - 1) * step_y + reach, height, width, top, left, step_y, step_x,
                 pitch, size, margin, exact);
        int y = 0;
        for (; y + 2 <= out_height; y += 2)
            window_rows(kind, 2, w, bias, padded + y * pitch, to + y * out_width, times ? times + y * out_width : 0,
                        plus ? plus + y * out_width : 0, places, taps, out_width, pitch, first, last);
        if (y < out_height)
            window_rows(kind, 1, w, bias, padded + y * pitch, to + y * out_width, times ? times + y * out_width : 0,
                        plus ? plus + y * out_width : 0, places, taps, out_width, pitch, first, last);
    }
}
