/* Depthwise convolution and pooling: each output plane has one input plane, which is padded first (padding.c).
 *
 * A register tile is N rows x X vectors: two rows of wide planes, more of narrow ones. places: offsets of the window's
 * positions in the padded plane. */
enum { DEPTHWISE = 0, MAXIMUM = 1, AVERAGE = 2 };
#define ACROSS (REGISTERS / 4) /* vectors across the widest tile: 4 or 8 */
#define SUMS (2 * ACROSS)
#define TALLEST(VECTORS) ((VECTORS) < ACROSS ? SUMS / (VECTORS) : 2)
#define SHARING 8 /* tallest window of window_sums */

/* The sums of a tile of a depthwise convolution.
 *
 * Neighbouring output rows share input rows: output n takes window row `row` + i * step from input row n + i, counted
 * among the rows of that phase. So every vector of input is loaded once, and used for up to `high` outputs. */
INLINE void window_sums(const int N, const int X, vec *sum, const float *weights, const float *padded,
                        const int32_t *places, const int down, const int across, const int step, const int pitch) {
    UNROLL for (int row = 0; row < step; row++)
        UNROLL for (int column = 0; column < across; column++) {
            const int high = (down - row + step - 1) / step; /* rows of the window in this phase */
            const float *place = padded + places[row * across + column];
            vec w[SHARING];
            UNROLL for (int i = 0; i < high; i++) w[i] = splat(weights[(row + i * step) * across + column]);
            UNROLL for (int y = 0; y < N + high - 1; y++)
                UNROLL for (int x = 0; x < X; x++) {
                    vec value = load(place + y * pitch + x * VEC);
                    KEEP(value);
                    UNROLL for (int n = 0; n < N; n++)
                        if (y >= n && y - n < high) sum[n * X + x] = fma_(w[y - n], value, sum[n * X + x]);
                }
        }
}

INLINE void window_tile(const int kind, const int N, const int X, const float *weights, const float bias,
                        const float *padded, float *to, const float *times, const float *plus, const int32_t *places,
                        const int down, const int across, const int step, const int width, const int pitch,
                        const int first, const int last) {
    const int taps = down * across;
    vec sum[SUMS];
    const vec start = splat(kind == DEPTHWISE ? bias : kind == MAXIMUM ? -__builtin_inff() : 0.0f);
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int x = 0; x < X; x++) sum[n * X + x] = start;
    if (step) window_sums(N, X, sum, weights, padded, places, down, across, step, pitch);
    const int apart = step ? 0 : taps; /* positions whose inputs are not shared */
    UNROLL for (int t = 0; t < apart; t++) {
        const float *place = padded + places[t];
        const vec w = splat(kind == DEPTHWISE ? weights[t] : 0.0f);
        UNROLL for (int n = 0; n < N; n++)
            UNROLL for (int x = 0; x < X; x++) {
                const vec value = load(place + n * pitch + x * VEC);
                const int i = n * X + x;
                sum[i] = kind == DEPTHWISE ? fma_(w, value, sum[i])
                         : kind == MAXIMUM ? max_(sum[i], value)
                                           : sum[i] + value;
            }
    }
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int x = 0; x < X; x++) {
            const int at = n * width + x * VEC;
            finish(kind == AVERAGE ? sum[n * X + x] * splat(1.0f / (float)taps) : sum[n * X + x], to + at,
                   times ? times + at : 0, plus ? plus + at : 0, first, last);
        }
}

/* N rows, from right to left: the last vector of a row spills into the next row, whose start is written after it. */
INLINE void window_rows(const int kind, const int N, const float *weights, const float bias, const float *padded,
                        float *to, const float *times, const float *plus, const int32_t *places, const int down,
                        const int across, const int step, const int width, const int pitch, const int first,
                        const int last) {
    const int vectors = (width + VEC - 1) / VEC;
    const int rest = (vectors - 1) % ACROSS + 1;
#define CALL(X, AT) \
    window_tile(kind, N, X, weights, bias, padded + (AT), to + (AT), times ? times + (AT) : 0, \
                plus ? plus + (AT) : 0, places, down, across, step, width, pitch, first, last)
    CALL(rest, (vectors - rest) * VEC);
    for (int v = vectors - rest; v > 0; v -= ACROSS) CALL(ACROSS, (v - ACROSS) * VEC);
#undef CALL
}

INLINE void window(const float *weights, const float *biases, const float *from, float *arena, float *padded,
                   const int32_t *places, const int32_t *in, const int32_t *out, const int32_t *mul,
                   const int32_t *add, const int kind, const int planes, const int down, const int across,
                   const int height, const int width, const int out_height, const int out_width, const int reach,
                   const int top, const int left, const int step_y, const int step_x, const int pitch, const int size,
                   const int exact, const int first, const int last) {
    /* the stride of a window that is not dilated and spans enough rows to share loads, or 0 */
    const int shares = kind == DEPTHWISE && reach == down && down >= 3 * step_y - 1 && down <= SHARING;
    const int step = shares ? step_y : 0, tallest = TALLEST((out_width + VEC - 1) / VEC);
    /* Low planes in one tile, if phases are read. With stride 1 a tile would wait for the rows just stored, which its
     * loads overlap: tiles of two rows overtake each other. */
    const int tall = step_y > 1 && tallest > out_height ? out_height : tallest;
    const float margin = kind == MAXIMUM ? -__builtin_inff() : 0.0f;
    const range own = share(planes);
    clear(padded, step_y * step_x * size, margin);
    for (int c = own.begin; c < own.end; c++) {
        float *to = arena + out[c];
        const float *times = mul ? arena + mul[c] : 0, *plus = add ? arena + add[c] : 0;
        const float *w = kind == DEPTHWISE ? weights + c * down * across : 0;
        const float bias = kind == DEPTHWISE ? biases[c] : 0.0f;
        pad_rows(padded, from + in[c], 0, (out_height - 1) * step_y + reach, height, width, top, left, step_y, step_x,
                 pitch, size, margin, exact);
        int y = 0;
#define CALL(N) \
    window_rows(kind, N, w, bias, padded + y * pitch, to + y * out_width, times ? times + y * out_width : 0, \
                plus ? plus + y * out_width : 0, places, down, across, step, out_width, pitch, first, last)
        for (; y + tall <= out_height; y += tall) CALL(tall);
        for (; y + 2 <= out_height; y += 2) CALL(2);
        if (y < out_height) CALL(1);
#undef CALL
    }
}
