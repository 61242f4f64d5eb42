/* Pointwise (1x1) convolution: a product of matrices one dimension of which is pixels.
 *
 * A register tile is M output planes x N vectors of pixels: M * N sums, N vectors of the input and one weight. With 16
 * registers 6 x 2, with 32 6 x 4. Weights lie tile by tile: M of them for each input plane. Planes are found by tables of
 * offsets, so that they may lie in any order: a shuffle, a split or a concatenation is a table. */
#define ROWS 6
#define WIDE (REGISTERS / 8)

/* what becomes of a sum: activation, product with a plane, sum with a plane, activation */
INLINE void finish(vec value, float *to, const float *times, const float *plus, const int first, const int last) {
    value = activate(value, first);
    if (times) value *= load(times);
    if (plus) value += load(plus);
    store(to, activate(value, last));
}

INLINE void pointwise_tile(const int M, const int N, const int inputs, const float *weights, const float *biases,
                           const float *from, const int32_t *in, float *arena, const int32_t *out, const int32_t *mul,
                           const int32_t *add, const int first, const int last) {
    vec sum[ROWS][WIDE];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) sum[m][n] = splat(biases[m]);
    for (int c = 0; c < inputs; c++, weights += M) {
        const float *plane = from + in[c];
        vec x[WIDE];
        UNROLL for (int n = 0; n < N; n++) x[n] = load(plane + n * VEC);
        UNROLL for (int m = 0; m < M; m++) {
            const vec w = splat(weights[m]);
            UNROLL for (int n = 0; n < N; n++) sum[m][n] = fma_(w, x[n], sum[m][n]);
        }
    }
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++)
            finish(sum[m][n], arena + out[m] + n * VEC, mul ? arena + mul[m] + n * VEC : 0,
                   add ? arena + add[m] + n * VEC : 0, first, last);
}

/* all outputs of one block of pixels: in every group `tall` tiles of `high` planes, then `small` tiles of one less */
INLINE void pointwise_block(const int N, const float *weights, const float *biases, const float *from, float *arena,
                            const int32_t *in, const int32_t *out, const int32_t *mul, const int32_t *add,
                            const int groups, const int inputs, const int high, const int tall, const int small,
                            const int first, const int last) {
    for (int g = 0; g < groups; g++, in += inputs) {
        for (int t = 0; t < tall; t++) {
            pointwise_tile(high, N, inputs, weights, biases, from, in, arena, out, mul, add, first, last);
            weights += high * inputs, biases += high, out += high;
            if (mul) mul += high;
            if (add) add += high;
        }
        for (int t = 0; t < small; t++) {
            pointwise_tile(high - 1, N, inputs, weights, biases, from, in, arena, out, mul, add, first, last);
            weights += (high - 1) * inputs, biases += high - 1, out += high - 1;
            if (mul) mul += high - 1;
            if (add) add += high - 1;
        }
    }
}

/* How a number of vectors is cut into blocks: WHOLE of WIDE vectors, then up to two that share what is left. */
#define REST(V) ((V) % WIDE == 0 ? 0 : (V) < WIDE ? (V) : WIDE + (V) % WIDE)
#define WHOLE(V) (((V) - REST(V)) / WIDE)
#define NEXT(V) ((V) < WIDE ? REST(V) : (REST(V) + 1) / 2)
#define LAST(V) (REST(V) - NEXT(V))
#define BLOCKS(V) (WHOLE(V) + (NEXT(V) > 0) + (LAST(V) > 0))
/* those of the blocks that are OWN */
#define FOR_BLOCKS(V, OWN, CALL) \
    for (int block = (OWN).begin; block < (OWN).end && block < WHOLE(V); block++) CALL(WIDE, block * WIDE); \
    if (NEXT(V) && (OWN).begin <= WHOLE(V) && WHOLE(V) < (OWN).end) CALL(NEXT(V), WHOLE(V) * WIDE); \
    if (LAST(V) && (OWN).begin <= WHOLE(V) + 1 && WHOLE(V) + 1 < (OWN).end) CALL(LAST(V), WHOLE(V) * WIDE + NEXT(V));

/* `from`: where the input planes are, the arena or the image. */
INLINE void pointwise(const float *weights, const float *biases, const float *from, float *arena, const int32_t *in,
                      const int32_t *out, const int32_t *mul, const int32_t *add, const int groups, const int inputs,
                      const int high, const int tall, const int small, const int pixels, const int first,
                      const int last) {
    const int vectors = (pixels + VEC - 1) / VEC;
    const range own = share(BLOCKS(vectors));
#define CALL(N, V) \
    pointwise_block(N, weights, biases, from + (V) * VEC, arena + (V) * VEC, in, out, mul, add, groups, inputs, high, \
                    tall, small, first, last)
    FOR_BLOCKS(vectors, own, CALL)
#undef CALL
}

/* the same for few pixels and many weights, which are read once: tile by tile, for each all blocks of pixels */
INLINE void pointwise_rows(const int M, const range tiles, const float *weights, const float *biases,
                           const float *from, float *arena, const int32_t *in, const int32_t *out, const int32_t *mul,
                           const int32_t *add, const int inputs, const int pixels, const int first, const int last) {
    const int vectors = (pixels + VEC - 1) / VEC;
    const range all = {0, BLOCKS(vectors)};
    for (int t = tiles.begin; t < tiles.end; t++) {
#define CALL(N, V) \
    pointwise_tile(M, N, inputs, weights + t * M * inputs, biases + t * M, from + (V) * VEC, in, arena + (V) * VEC, \
                   out + t * M, mul ? mul + t * M : 0, add ? add + t * M : 0, first, last)
        FOR_BLOCKS(vectors, all, CALL)
#undef CALL
    }
}

INLINE void pointwise_few(const float *weights, const float *biases, const float *from, float *arena,
                          const int32_t *in, const int32_t *out, const int32_t *mul, const int32_t *add,
                          const int groups, const int inputs, const int high, const int tall, const int small,
                          const int pixels, const int first, const int last) {
    const int rows = high * tall, outputs = rows + (high - 1) * small;
    const range own = share(groups * (tall + small));
    for (int g = 0; g < groups; g++) {
        const int start = g * (tall + small);
        pointwise_rows(high, within(own, start, tall), weights, biases, from, arena, in, out, mul, add, inputs, pixels,
                       first, last);
        if (small)
            pointwise_rows(high - 1, within(own, start + tall, small), weights + rows * inputs, biases + rows, from,
                           arena, in, out + rows, mul ? mul + rows : 0, add ? add + rows : 0, inputs, pixels, first,
                           last);
        weights += outputs * inputs, biases += outputs, in += inputs, out += outputs;
        if (mul) mul += outputs;
        if (add) add += outputs;
    }
}
