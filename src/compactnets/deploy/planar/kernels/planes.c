/* Operations on whole planes. */

/* Activation, product, sum and activation that could not be fused into the producer of the planes. */
INLINE void combine(const float *from, float *arena, const int32_t *in, const int32_t *out, const int32_t *mul,
                    const int32_t *add, const int planes, const int pixels, const int exact, const int first,
                    const int last) {
    const range own = share(planes);
    for (int c = own.begin; c < own.end; c++) {
        const float *source = from + in[c], *times = mul ? arena + mul[c] : 0, *plus = add ? arena + add[c] : 0;
        float *to = arena + out[c];
        const int whole = exact ? pixels / VEC * VEC : pixels;
        for (int p = 0; p < whole; p += VEC)
            finish(load(source + p), to + p, times ? times + p : 0, plus ? plus + p : 0, first, last);
        if (whole < pixels) { /* the last pixels of an image: do not read past its end */
            float end[VEC];
            for (int p = whole; p < pixels; p++) end[p - whole] = source[p];
            for (int p = pixels; p < whole + VEC; p++) end[p - whole] = 0.0f;
            finish(load(end), to + whole, times ? times + whole : 0, plus ? plus + whole : 0, first, last);
        }
    }
}

/* Multiply each plane by a scalar, the single pixel of another plane (squeeze and excitation). */
INLINE void scale(float *arena, const int32_t *in, const int32_t *by, const int32_t *out, const int planes,
                  const int pixels, const int last) {
    const range own = share(planes);
    for (int c = own.begin; c < own.end; c++) {
        const vec factor = splat(arena[by[c]]);
        for (int p = 0; p < pixels; p += VEC)
            store(arena + out[c] + p, activate(load(arena + in[c] + p) * factor, last));
    }
}

/* The mean of each plane, as a plane of one pixel. */
INLINE void mean(const float *from, float *arena, const int32_t *in, const int32_t *out, const int planes,
                 const int pixels, const int last) {
    const int whole = pixels / VEC * VEC;
    const range own = share(planes);
    for (int c = own.begin; c < own.end; c++) {
        const float *plane = from + in[c];
        vec sum = splat(0.0f);
        for (int p = 0; p < whole; p += VEC) sum += load(plane + p);
        float total = sum_of(sum);
        for (int p = whole; p < pixels; p++) total += plane[p];
        store(arena + out[c], activate(splat(total / (float)pixels), last));
    }
}

/* Dense layer: outputs[o] = weights[o] . x + biases[o], four outputs at a time; x is the pixels of all input planes.
 *
 * row: length of a row of weights, zero-padded to a multiple of 16. Four rows are interleaved in chunks of 16, so that
 * weights are read sequentially. half: whether weights are 16-bit. x: scratch of `row` floats. out: planes of one
 * pixel. */
INLINE void dense(const float *weights, const float *biases, const float *from, float *arena, float *x,
                  const int32_t *in, const int32_t *out, const int inputs, const int pixels, const int row,
                  const int outputs, const int half, const int last) {
    const uint16_t *halves = (const uint16_t *)weights;
    const range own = share((outputs + 3) / 4);
    for (int c = 0; c < inputs; c++)
        for (int p = 0; p < pixels; p++) x[c * pixels + p] = from[in[c] + p];
    for (int i = inputs * pixels; i < row; i++) x[i] = 0.0f;
    for (int o = 4 * own.begin; o < 4 * own.end; o += 4) {
        vec sum[4][2];
        UNROLL for (int r = 0; r < 4; r++) sum[r][0] = sum[r][1] = splat(0.0f);
        for (int i = 0; i < row; i += 16)
            UNROLL for (int r = 0; r < 4; r++)
                UNROLL for (int j = 0; j < 16 / VEC; j++) {
                    const int at = o * row + 4 * i + 16 * r + j * VEC;
                    const vec w = half ? load_half(halves + at) : load(weights + at);
                    sum[r][j % 2] = fma_(w, load(x + i + j * VEC), sum[r][j % 2]);
                }
        for (int r = 0; r < 4 && o + r < outputs; r++)
            store(arena + out[o + r], activate(splat(sum_of(sum[r][0] + sum[r][1]) + biases[o + r]), last));
    }
}

/* Convert 16-bit weights to 32 bits, before a layer that reads them many times. count is a multiple of 16. */
INLINE void widen(const float *weights, float *to, const int count) {
    const uint16_t *halves = (const uint16_t *)weights;
    const range own = share(count / 16);
    for (int i = 16 * own.begin; i < 16 * own.end; i += VEC) store(to + i, load_half(halves + i));
}

/* Copy planes to consecutive memory, without the padding at their ends. */
INLINE void copy(float *arena, float *to, const int32_t *in, const int planes, const int pixels) {
    const range own = share(planes);
    for (int c = own.begin; c < own.end; c++)
        for (int p = 0; p < pixels; p++) to[c * pixels + p] = arena[in[c] + p];
}
