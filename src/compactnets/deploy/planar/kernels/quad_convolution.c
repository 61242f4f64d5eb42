/* Pointwise convolution of quads, and others as one: a register tile is T quads of outputs x N vectors of pixels.
 *
 * Weights are stored tile by tile: for each quad of inputs (and position of a window) one word for each of 4 * T
 * outputs, whose bytes are the weights of its four channels. */
#define TALL 3 /* quads of the tallest tile */
#if REGISTERS == 32 && VEC > 1
#define ACROSS_QUADS(T) ((T) == 1 ? 6 : (T) == 2 ? 3 : 2)
#elif defined(DOT) && VEC > 1
#define ACROSS_QUADS(T) ((T) == 1 ? 3 : 1)
#else
#define ACROSS_QUADS(T) ((T) == 1 && VEC > 1 ? 2 : 1)
#endif
#define WIDEST 6

INLINE void quad_tile(const int T, const int N, const int depth, const int32_t *start, const float *weights,
                      const float *factors, const float *from, const int32_t *in, float *arena, const int32_t *out,
                      const limits ends, const int kind) {
    ivec sum[4 * TALL][WIDEST];
    UNROLL for (int m = 0; m < 4 * T; m++)
        UNROLL for (int n = 0; n < N; n++) sum[m][n] = splat_word(start[m]);
    for (int c = 0; c < depth; c++, weights += 4 * T) {
        const float *plane = from + in[c];
        quad x[WIDEST];
        UNROLL for (int n = 0; n < N; n++) x[n] = load_quad(plane + n * VEC);
        UNROLL for (int m = 0; m < 4 * T; m++) {
            const quad_weights w = splat_weights(weights + m);
            UNROLL for (int n = 0; n < N; n++) sum[m][n] = dot4(sum[m][n], x[n], w);
        }
    }
    int32_t to[TALL]; /* read before the first store, which could change the table as far as the compiler knows */
    UNROLL for (int t = 0; t < T; t++) to[t] = out[t];
    UNROLL for (int t = 0; t < T; t++)
        UNROLL for (int n = 0; n < N; n++) {
            const ivec four[4] = {sum[4 * t][n], sum[4 * t + 1][n], sum[4 * t + 2][n], sum[4 * t + 3][n]};
            store_words(arena + to[t] + n * VEC, sums_to_bytes(four, factors + 4 * t, ends, kind));
        }
}

/* V vectors are cut into blocks of N, and one of what is left. CALL(vectors in the block, first vector) for each that
 * is in the range OWN. */
#define QUAD_BLOCKS(V, N) (((V) + (N) - 1) / (N))
#define FOR_QUAD_BLOCKS(V, N, OWN, CALL) \
    for (int block = (OWN).begin; block < (OWN).end && block < (V) / (N); block++) CALL(N, block * (N)); \
    if ((V) % (N) && (OWN).begin <= (V) / (N) && (V) / (N) < (OWN).end) CALL((V) % (N), (V) / (N) * (N));

/* Tiles of T quads, one after the other. */
INLINE void quad_tiles(const int T, const int across, const range tiles, const range blocks, const int vectors,
                       const int depth, const float *weights, const float *biases, const float *factors,
                       const float *from, const int32_t *in, float *arena, const int32_t *out, const limits ends,
                       const int kind) {
    for (int t = tiles.begin; t < tiles.end; t++) {
        const float *w = weights + 4 * t * T * depth;
        int32_t start[4 * TALL];
        start_sums(start, biases + 4 * t * T, w, 4 * T, depth);
#define CALL(N, V) \
    quad_tile(T, N, depth, start, w, factors + 4 * t * T, from + (V) * VEC, in, arena + (V) * VEC, out + t * T, ends, \
              kind)
        FOR_QUAD_BLOCKS(vectors, across, blocks, CALL)
#undef CALL
    }
}

/* Groups of `inputs` quads; `tall` tiles of `high` quads, then `small` ones of `high` - 1. Threads share the pixels, or
 * the tiles if pixels are few. */
INLINE void quad_pointwise(const float *weights, const float *biases, const float *factors, float *arena,
                           const int32_t *in, const int32_t *out, const int32_t *ends, const int groups,
                           const int inputs, const int high, const int tall, const int small, const int pixels,
                           const int kind) {
    const limits limit = limits_at(ends);
    const int vectors = (pixels + VEC - 1) / VEC, across = ACROSS_QUADS(high), few = pixels <= 64;
    const int quads = high * tall + (high - 1) * small;
    const range all = {0, QUAD_BLOCKS(vectors, across)}, own = few ? all : share(QUAD_BLOCKS(vectors, across));
    const range every = {0, groups * (tall + small)}, mine = few ? share(groups * (tall + small)) : every;
    for (int g = 0; g < groups; g++) {
        const range talls = within(mine, g * (tall + small), tall);
        quad_tiles(high, across, talls, own, vectors, inputs, weights, biases, factors, arena, in, arena, out, limit,
                   kind);
        if (small) {
            const range smalls = within(mine, g * (tall + small) + tall, small);
            const int done = high * tall;
            quad_tiles(high - 1, across, smalls, own, vectors, inputs, weights + 4 * done * inputs, biases + 4 * done,
                       factors + 4 * done, arena, in, arena, out + done, limit, kind);
        }
        weights += 4 * quads * inputs, biases += 4 * quads, factors += 4 * quads, in += inputs, out += quads;
    }
}

/* Store rows of `flat`, which are `pitch` words apart, as a plane. From top to bottom in whole vectors: what spills past
 * the end of a row is overwritten by the next, or lies behind the plane. */
INLINE void store_rows(const float *flat, float *to, const int rows, const int width, const int pitch) {
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < width; x += VEC) store_words(to + y * width + x, load_words(flat + y * pitch + x));
}

/* Tiles over the padded rows of a band, margins included; then the rows without the margins. */
INLINE void quad_window_tiles(const int T, const int across, const range tiles, const float *weights,
                              const float *biases, const float *factors, const float *padded, float *flat, float *to,
                              const int32_t *places, const int32_t *out, const int depth, const int rows,
                              const int width, const int pitch, const limits ends, const int kind) {
    const int vectors = ((rows - 1) * pitch + width + VEC - 1) / VEC;
    const range all = {0, QUAD_BLOCKS(vectors, across)};
    int32_t in_flat[TALL];
    for (int t = 0; t < T; t++) in_flat[t] = t * vectors * VEC;
    for (int t = tiles.begin; t < tiles.end; t++) {
        const range one = {0, 1};
        quad_tiles(T, across, one, all, vectors, depth, weights + 4 * t * T * depth, biases + 4 * t * T,
                   factors + 4 * t * T, padded, places, flat, in_flat, ends, kind);
        for (int k = 0; k < T; k++) store_rows(flat + in_flat[k], to + out[t * T + k], rows, width, pitch);
    }
}

/* Convolution with a window, in bands of `band` rows, as in convolution.c: every position of the window acts as an input
 * quad. margin: the word of four zero points. */
INLINE void quad_convolution(const float *weights, const float *biases, const float *factors, float *arena,
                             float *padded, const int32_t *in, const int32_t *places, const int32_t *out,
                             const int32_t *ends, const int groups, const int inputs, const int taps, const int high,
                             const int tall, const int small, const int height, const int width, const int out_height,
                             const int out_width, const int band, const int reach, const int top, const int left,
                             const int step_y, const int step_x, const int pitch, const int size, const int behind,
                             const int kind) {
    const limits limit = limits_at(ends);
    const float margin = as_float(ends[3]);
    const int across = ACROSS_QUADS(high), tallest = high * tall, quads = tallest + (high - 1) * small;
    const int depth = inputs * taps, plane = step_y * step_x * size;
    const range own = share(groups * (tall + small));
    float *flat = padded + behind;
    for (int g = 0; g < groups; g++) {
        const range talls = within(own, g * (tall + small), tall);
        const range smalls = within(own, g * (tall + small) + tall, small);
        const int idle = talls.begin >= talls.end && smalls.begin >= smalls.end;
        if (!idle) clear(padded, inputs * plane, margin);
        for (int start = 0; start < out_height && !idle; start += band) {
            const int rows = start + band <= out_height ? band : out_height - start;
            for (int c = 0; c < inputs; c++)
                pad_rows(padded + c * plane, arena + in[c], start * step_y, (rows - 1) * step_y + reach, height, width,
                         top, left, step_y, step_x, pitch, size, margin, 0);
            float *to = arena + start * out_width;
            quad_window_tiles(high, across, talls, weights, biases, factors, padded, flat, to, places, out, depth, rows,
                              out_width, pitch, limit, kind);
            if (small)
                quad_window_tiles(high - 1, across, smalls, weights + 4 * tallest * depth, biases + 4 * tallest,
                                  factors + 4 * tallest, padded, flat, to, places, out + tallest, depth, rows,
                                  out_width, pitch, limit, kind);
        }
        weights += 4 * quads * depth, biases += 4 * quads, factors += 4 * quads, in += inputs, out += quads;
    }
}
