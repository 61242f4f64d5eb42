/* Pointwise (1x1) convolution: a product of matrices one dimension of which is pixels.
 *
 * A register tile is M output planes x N vectors of pixels: M * N sums, N input vectors and one weight. It is 6 x 2
 * with 16 registers and 6 x 4 with 32. Weights are stored tile by tile, M of them per input plane. Tables of offsets
 * locate the planes, so their order in memory is free: a shuffle, a split or a concatenation is just another table. */
#define ROWS 6
#define WIDE (REGISTERS / 8)
#define LINE 16 /* floats of a cache line */
#define NEAR 24576 /* bytes that stay in a first-level cache beside weights and results */
#define FAR 16384 /* bytes of weights that do not stay in it from one block of pixels to the next */

/* Finish a sum: activation, times a plane, plus a plane, activation. */
INLINE void finish(vec value, float *to, const float *times, const float *plus, const int first, const int last) {
    value = activate(value, first);
    if (times) value *= load(times);
    if (plus) value += load(plus);
    store(to, activate(value, last));
}

/* What a tile prefetches: the pixels that the next block will read, or the weights of the next tile. The hardware does
 * not: a block takes a cache line or a few from each of many planes, and weights cross a page every few tiles. */
enum { NOTHING = 0, PIXELS = 1, WEIGHTS = 2 };

/* One register tile.
 *
 * in: offsets of the input planes, or 0 if `from` is a panel: the N vectors of each input, one input after another.
 * panel: where to copy the inputs to, as a panel, or 0. */
INLINE void pointwise_tile(const int M, const int N, const int inputs, const float *weights, const float *biases,
                           const float *from, const int32_t *in, float *arena, const int32_t *out, const int32_t *mul,
                           const int32_t *add, float *panel, const int ahead, const int first, const int last) {
    vec sum[ROWS][WIDE];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) sum[m][n] = splat(biases[m]);
    for (int c = 0; c < inputs; c++, weights += M) {
        const float *plane = from + (in ? in[c] : c * N * VEC);
        vec x[WIDE];
        UNROLL for (int n = 0; n < N; n++) x[n] = load(plane + n * VEC);
        if (panel)
            UNROLL for (int n = 0; n < N; n++) store(panel + (c * N + n) * VEC, x[n]);
        if (ahead == PIXELS)
            UNROLL for (int n = 0; n < N * VEC; n += LINE) __builtin_prefetch(plane + N * VEC + n);
        if (ahead == WEIGHTS) __builtin_prefetch(weights + M * inputs);
        UNROLL for (int m = 0; m < M; m++) {
            const vec w = splat(weights[m]);
            UNROLL for (int n = 0; n < N; n++) sum[m][n] = fma_(w, x[n], sum[m][n]);
        }
    }
    /* Read all offsets before the first store: as far as the compiler knows, a store could change the tables. */
    int32_t to[ROWS], times[ROWS], plus[ROWS];
    UNROLL for (int m = 0; m < M; m++) to[m] = out[m], times[m] = mul ? mul[m] : 0, plus[m] = add ? add[m] : 0;
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++)
            finish(sum[m][n], arena + to[m] + n * VEC, mul ? arena + times[m] + n * VEC : 0,
                   add ? arena + plus[m] + n * VEC : 0, first, last);
}

/* A group's outputs for one block of pixels: `tall` tiles of `high` planes, then `small` tiles of `high` - 1.
 *
 * panel: scratch, or 0. With it, the first tile copies the inputs to a panel, which the other tiles read. Planes are up
 * to pages apart: to read many of them again and again takes more entries of the TLB than there are. */
INLINE void pointwise_block(const int N, const float *weights, const float *biases, const float *from, float *arena,
                            float *panel, const int32_t *in, const int32_t *out, const int32_t *mul,
                            const int32_t *add, const int inputs, const int high, const int tall, const int small,
                            const int first, const int last) {
    const int bytes = (int)sizeof(float) * inputs;
    const int room = 2 * bytes * N * VEC <= NEAR; /* for two blocks of pixels */
    const int far = bytes * (high * tall + (high - 1) * small) > FAR;
    const int ahead = room && !panel ? PIXELS : far ? WEIGHTS : NOTHING;
#define TILE(M, FROM, IN, TO, AHEAD) \
    pointwise_tile(M, N, inputs, weights, biases, FROM, IN, arena, out, mul, add, TO, AHEAD, first, last); \
    weights += (M) * inputs, biases += (M), out += (M); \
    if (mul) mul += (M); \
    if (add) add += (M);
    if (panel) {
        TILE(high, from, in, panel, PIXELS)
        from = panel;
    }
    const int32_t *table = panel ? 0 : in;
    for (int t = panel ? 1 : 0; t < tall; t++) { TILE(high, from, table, 0, ahead) }
    for (int t = 0; t < small; t++) { TILE(high - 1, from, table, 0, ahead) }
#undef TILE
}

/* V vectors are cut into WHOLE blocks of WIDE vectors, and up to two smaller ones that share the rest. */
#define REST(V) ((V) % WIDE == 0 ? 0 : (V) < WIDE ? (V) : WIDE + (V) % WIDE)
#define WHOLE(V) (((V) - REST(V)) / WIDE)
#define NEXT(V) ((V) < WIDE ? REST(V) : (REST(V) + 1) / 2)
#define LAST(V) (REST(V) - NEXT(V))
#define BLOCKS(V) (WHOLE(V) + (NEXT(V) > 0) + (LAST(V) > 0))
/* CALL(vectors in the block, first vector) for each block that is in the range OWN */
#define FOR_BLOCKS(V, OWN, CALL) \
    for (int block = (OWN).begin; block < (OWN).end && block < WHOLE(V); block++) CALL(WIDE, block * WIDE); \
    if (NEXT(V) && (OWN).begin <= WHOLE(V) && WHOLE(V) < (OWN).end) CALL(NEXT(V), WHOLE(V) * WIDE); \
    if (LAST(V) && (OWN).begin <= WHOLE(V) + 1 && WHOLE(V) + 1 < (OWN).end) CALL(LAST(V), WHOLE(V) * WIDE + NEXT(V));

/* Group by group, and block by block of pixels; the weights are read again for each. from: where the inputs are, the
 * arena or the image. */
INLINE void pointwise(const float *weights, const float *biases, const float *from, float *arena, float *panel,
                      const int32_t *in, const int32_t *out, const int32_t *mul, const int32_t *add, const int groups,
                      const int inputs, const int high, const int tall, const int small, const int pixels,
                      const int first, const int last) {
    const int vectors = (pixels + VEC - 1) / VEC, outputs = high * tall + (high - 1) * small;
    const range own = share(BLOCKS(vectors));
    for (int g = 0; g < groups; g++) {
#define CALL(N, V) \
    pointwise_block(N, weights, biases, from + (V) * VEC, arena + (V) * VEC, panel, in, out, mul, add, inputs, high, \
                    tall, small, first, last)
        FOR_BLOCKS(vectors, own, CALL)
#undef CALL
        weights += outputs * inputs, biases += outputs, in += inputs, out += outputs;
        if (mul) mul += outputs;
        if (add) add += outputs;
    }
}

/* One pixel of a tile's planes, for the last pixels of a plane if they are too few for a vector.
 *
 * A 7 x 7 plane has 49 pixels: whole vectors, and one pixel. Another vector for that pixel would take M multiply-adds
 * per input; a vector of outputs takes one. x: the pixel in each input plane. PARTS independent sums hide the latency
 * of a multiply-add. Loads run past a tile's weights into the next ones, or the biases; those lanes are not used. */
#define SPAN ((ROWS + VEC - 1) / VEC) /* vectors of outputs */
#define PARTS 4

INLINE void pointwise_pixel(const int M, const int inputs, const float *weights, const float *biases, const float *x,
                            float *arena, const int32_t *out, const int32_t *mul, const int32_t *add, const int first,
                            const int last) {
    vec sum[PARTS][SPAN];
    float value[SPAN * VEC], times[SPAN * VEC], plus[SPAN * VEC];
    UNROLL for (int p = 0; p < PARTS; p++)
        UNROLL for (int s = 0; s < SPAN; s++) sum[p][s] = splat(0.0f);
    int c = 0;
    for (; c + PARTS <= inputs; c += PARTS)
        UNROLL for (int p = 0; p < PARTS; p++)
            UNROLL for (int s = 0; s < SPAN; s++)
                sum[p][s] = fma_(load(weights + (c + p) * M + s * VEC), splat(x[c + p]), sum[p][s]);
    for (; c < inputs; c++)
        UNROLL for (int s = 0; s < SPAN; s++)
            sum[0][s] = fma_(load(weights + c * M + s * VEC), splat(x[c]), sum[0][s]);
    UNROLL for (int m = 0; m < SPAN * VEC; m++) {
        value[m] = m < M ? biases[m] : 0.0f;
        times[m] = mul && m < M ? arena[mul[m]] : 0.0f;
        plus[m] = add && m < M ? arena[add[m]] : 0.0f;
    }
    UNROLL for (int s = 0; s < SPAN; s++) {
        const int at = s * VEC;
        const vec total = (sum[0][s] + sum[1][s]) + (sum[2][s] + sum[3][s]) + load(value + at);
        finish(total, value + at, mul ? times + at : 0, add ? plus + at : 0, first, last);
    }
    UNROLL for (int m = 0; m < M; m++) arena[out[m]] = value[m];
}

/* All pixels of some tiles: `vectors` vectors, then `rest` single pixels, whose inputs are at `ends`. in, from: as for
 * pointwise_tile. */
INLINE void pointwise_rows(const int M, const range tiles, const float *weights, const float *biases,
                           const float *from, const float *ends, float *arena, const int32_t *in, const int32_t *out,
                           const int32_t *mul, const int32_t *add, const int inputs, const int vectors,
                           const int rest, const int first, const int last) {
    const range all = {0, BLOCKS(vectors)};
    for (int t = tiles.begin; t < tiles.end; t++) {
        const float *w = weights + t * M * inputs, *b = biases + t * M;
        const int32_t *to = out + t * M, *times = mul ? mul + t * M : 0, *plus = add ? add + t * M : 0;
#define CALL(N, V) \
    pointwise_tile(M, N, inputs, w, b, from + (V) * VEC * (in ? 1 : inputs), in, arena + (V) * VEC, to, times, plus, \
                   0, WEIGHTS, first, last)
        FOR_BLOCKS(vectors, all, CALL)
#undef CALL
        for (int r = 0; r < rest; r++)
            pointwise_pixel(M, inputs, w, b, ends + r * inputs, arena + vectors * VEC + r, to, times, plus, first,
                            last);
    }
}

/* The same for few pixels and many weights: tile by tile, so that the weights are read once.
 *
 * Each tile reads all pixels of its group's inputs, so these are first copied to panels, which are read sequentially.
 * Groups of one or two tiles are not worth the copy. panel: scratch for all pixels of a group's inputs. */
INLINE void pointwise_few(const float *weights, const float *biases, const float *from, float *arena, float *panel,
                          const int32_t *in, const int32_t *out, const int32_t *mul, const int32_t *add,
                          const int groups, const int inputs, const int high, const int tall, const int small,
                          const int pixels, const int first, const int last) {
    const int rows = high * tall, outputs = rows + (high - 1) * small;
    const int rest = 2 * SPAN * (pixels % VEC) <= high ? pixels % VEC : 0;
    const int vectors = rest ? pixels / VEC : (pixels + VEC - 1) / VEC;
    const int copied = tall + small > 2;
    const range own = share(groups * (tall + small)), all = {0, BLOCKS(vectors)};
    float *ends = panel + vectors * VEC * inputs;
    for (int g = 0; g < groups; g++) {
        const int start = g * (tall + small);
        const range talls = within(own, start, tall), smalls = within(own, start + tall, small);
        if (talls.begin < talls.end || smalls.begin < smalls.end) {
            for (int c = 0; c < inputs && copied; c++) {
#define CALL(N, V) \
    for (int n = 0; n < N; n++) store(panel + ((V) * inputs + c * N + n) * VEC, load(from + in[c] + ((V) + n) * VEC))
                FOR_BLOCKS(vectors, all, CALL)
#undef CALL
            }
            for (int r = 0; r < rest; r++)
                for (int c = 0; c < inputs; c++) ends[r * inputs + c] = from[in[c] + vectors * VEC + r];
        }
        const float *source = copied ? panel : from;
        const int32_t *table = copied ? 0 : in;
        pointwise_rows(high, talls, weights, biases, source, ends, arena, table, out, mul, add, inputs, vectors, rest,
                       first, last);
        if (small)
            pointwise_rows(high - 1, smalls, weights + rows * inputs, biases + rows, source, ends, arena, table,
                           out + rows, mul ? mul + rows : 0, add ? add + rows : 0, inputs, vectors, rest, first, last);
        weights += outputs * inputs, biases += outputs, in += inputs, out += outputs;
        if (mul) mul += outputs;
        if (add) add += outputs;
    }
}
