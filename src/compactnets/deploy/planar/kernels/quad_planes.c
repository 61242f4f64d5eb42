/* Operations on quads channel by channel, and the ends of an int8 network. */

/* Depthwise convolution and maximum, quad by quad, over padded rows with their margins, as in quad_window_tiles. */
enum { QUAD_DEPTHWISE = 0, QUAD_MAXIMUM = 1 };
#define ACROSS_WINDOW ACROSS_QUADS(1)

INLINE void quad_window_tile(const int what, const int N, const int taps, const int32_t *start, const float *weights,
                             const float *factors, const float *padded, const int32_t *places, float *to,
                             const limits ends, const int kind) {
    if (what == QUAD_MAXIMUM) {
        ivec largest[WIDEST];
        UNROLL for (int n = 0; n < N; n++) largest[n] = load_words(padded + places[0] + n * VEC);
        for (int t = 1; t < taps; t++)
            UNROLL for (int n = 0; n < N; n++)
                largest[n] = max_bytes(largest[n], load_words(padded + places[t] + n * VEC));
        UNROLL for (int n = 0; n < N; n++) store_words(to + n * VEC, largest[n]);
        return;
    }
    ivec sum[4][WIDEST];
    UNROLL for (int k = 0; k < 4; k++)
        UNROLL for (int n = 0; n < N; n++) sum[k][n] = splat_word(start[k]);
    for (int t = 0; t < taps; t++) {
        quad x[WIDEST];
        UNROLL for (int n = 0; n < N; n++) x[n] = load_quad(padded + places[t] + n * VEC);
        UNROLL for (int k = 0; k < 4; k++) {
            const quad_weights w = splat_weights(weights + 4 * t + k);
            UNROLL for (int n = 0; n < N; n++) sum[k][n] = dot1(sum[k][n], x[n], w, k);
        }
    }
    UNROLL for (int n = 0; n < N; n++) {
        const ivec four[4] = {sum[0][n], sum[1][n], sum[2][n], sum[3][n]};
        store_words(to + n * VEC, sums_to_bytes(four, factors, ends, kind));
    }
}

#define MOST_TAPS 128 /* of a depthwise convolution */

INLINE void quad_window(const float *weights, const float *biases, const float *factors, float *arena, float *padded,
                        const int32_t *in, const int32_t *places, const int32_t *out, const int32_t *ends,
                        const int what, const int quads, const int taps, const int height, const int width,
                        const int out_height, const int out_width, const int reach, const int top, const int left,
                        const int step_y, const int step_x, const int pitch, const int size, const int behind,
                        const int kind) {
    const limits limit = limits_at(ends);
    const float margin = as_float(ends[3]);
    const int vectors = ((out_height - 1) * pitch + out_width + VEC - 1) / VEC;
    const range own = share(quads), all = {0, QUAD_BLOCKS(vectors, ACROSS_WINDOW)};
    float *flat = padded + behind;
    float each[4 * MOST_TAPS]; /* one word for each channel, which has the channel's weight and three zeros */
    int32_t start[4] = {0, 0, 0, 0};
    clear(padded, step_y * step_x * size, margin);
    for (int q = own.begin; q < own.end; q++) {
        pad_rows(padded, arena + in[q], 0, (out_height - 1) * step_y + reach, height, width, top, left, step_y, step_x,
                 pitch, size, margin, 0);
        if (what == QUAD_DEPTHWISE) {
            for (int t = 0; t < taps; t++)
                for (int k = 0; k < 4; k++)
                    ((number *)each)[4 * t + k] =
                        (int32_t)((uint32_t)((const number *)weights)[q * taps + t] & (255u << (8 * k)));
            start_sums(start, biases + 4 * q, each, 4, taps);
        }
        const float *own_factors = what == QUAD_DEPTHWISE ? factors + 4 * q : 0;
#define CALL(N, V) \
    quad_window_tile(what, N, taps, start, each, own_factors, padded + (V) * VEC, places, flat + (V) * VEC, limit, kind)
        FOR_QUAD_BLOCKS(vectors, ACROSS_WINDOW, all, CALL)
#undef CALL
        store_rows(flat, arena + out[q], out_height, out_width, pitch);
    }
}

/* The image as quads. in: for each of a quad's places a channel of the image, or -1. raw: the image is 8-bit pixels, all
 * channels of one after the other, for which `bytes` has 256 bytes for each channel. */
INLINE void quad_image(const float *from, const uint8_t *bytes, const int raw, float *arena, const int32_t *in,
                       const int32_t *out, const int32_t *ends, const int quads, const int channels,
                       const int pixels, const float factor) {
    const limits limit = limits_at(ends);
    const range own = share((pixels + VEC - 1) / VEC);
    for (int q = 0; q < quads; q++, in += 4) {
        if (raw) {
            const uint8_t *image = (const uint8_t *)from;
            for (int p = own.begin * VEC; p < own.end * VEC && p < pixels; p++) {
                uint32_t all = 0;
                for (int k = 0; k < 4; k++)
                    if (in[k] >= 0) all |= (uint32_t)bytes[256 * in[k] + image[p * channels + in[k]]] << (8 * k);
                *(number *)(arena + out[q] + p) = (int32_t)all;
            }
            continue;
        }
        for (int v = own.begin; v < own.end; v++) {
            vec value[4];
            UNROLL for (int k = 0; k < 4; k++) {
                value[k] = splat(0.0f);
                if (in[k] < 0) continue;
                const float *plane = from + in[k] * pixels + v * VEC;
                if ((v + 1) * VEC <= pixels)
                    value[k] = load(plane) * splat(factor);
                else { /* the last pixels: do not read past the end */
                    float end[VEC];
                    for (int i = 0; i < VEC; i++) end[i] = v * VEC + i < pixels ? plane[i] : 0.0f;
                    value[k] = load(end) * splat(factor);
                }
            }
            store_words(arena + out[q] + v * VEC, to_bytes(value, limit, WIDE));
        }
    }
}

/* Replace every byte by the one that a table has for it. */
INLINE void quad_lookup(const float *table, float *arena, const int32_t *in, const int32_t *out, const int quads,
                        const int pixels) {
    const uint8_t *bytes = (const uint8_t *)table;
    const range own = share(quads);
    for (int q = own.begin; q < own.end; q++) {
#if defined(HAS_LOOKUP)
        const lookup all = read_lookup(bytes);
        for (int p = 0; p < pixels; p += VEC) store_words(arena + out[q] + p, look_up(all, load_words(arena + in[q] + p)));
#else
        const uint8_t *from = (const uint8_t *)(arena + in[q]);
        uint8_t *to = (uint8_t *)(arena + out[q]);
        for (int i = 0; i < 4 * pixels; i++) to[i] = bytes[from[i]];
#endif
    }
}

/* Sums of two quads: (a * terms[0] + b * terms[1] + terms[2]) >> terms[3], terms[2] having the zero points and half a
 * step in it. */
INLINE ivec add_bytes(ivec a, ivec b, const int32_t *terms, const limits ends) {
    ivec sum[4];
#if defined(MADD) /* pairs of 16-bit numbers: a byte of a, and that of b above it */
    const int32_t upper = (int32_t)0xffff0000u;
    const ivec factors = splat_word(terms[0] | (int32_t)((uint32_t)terms[1] << 16));
    UNROLL for (int k = 0; k < 2; k++) {
        const ivec one = byte_pairs(a, k), other = byte_pairs(b, k);
        sum[k] = MADD((one & 0xffff) | (ivec)((uvec)other << 16), factors);
        sum[k + 2] = MADD((ivec)((uvec)one >> 16) | (other & upper), factors);
    }
#else
    UNROLL for (int k = 0; k < 4; k++) sum[k] = byte_of(a, k) * terms[0] + byte_of(b, k) * terms[1];
#endif
    UNROLL for (int k = 0; k < 4; k++) sum[k] = (sum[k] + terms[2]) >> terms[3];
    return pack_bytes(sum, ends, SHIFTED);
}

INLINE void quad_sum(float *arena, const int32_t *in, const int32_t *add, const int32_t *out, const int32_t *ends,
                     const int quads, const int pixels) {
    const limits limit = limits_at(ends);
    const range own = share(quads);
    for (int q = own.begin; q < own.end; q++)
        for (int p = 0; p < pixels; p += VEC)
            store_words(arena + out[q] + p, add_bytes(load_words(arena + in[q] + p), load_words(arena + add[q] + p),
                                                      ends + 4, limit));
}

/* The products of the bytes of two quads, less their zero points. */
INLINE void multiply_bytes(vec *value, ivec a, ivec b, const int zero, const int other) {
#if defined(MADD)
    const int32_t upper = (int32_t)0xffff0000u;
    UNROLL for (int k = 0; k < 2; k++) {
        const ivec first = (ivec)((hvec)byte_pairs(a, k) - (int16_t)zero);
        const ivec second = (ivec)((hvec)byte_pairs(b, k) - (int16_t)other);
        value[k] = to_floats(MADD(first & 0xffff, second));
        value[k + 2] = to_floats(MADD(first & upper, second));
    }
#else
    UNROLL for (int k = 0; k < 4; k++) value[k] = to_floats((byte_of(a, k) - zero) * (byte_of(b, k) - other));
#endif
}

/* Products of two quads, the bytes less their zero points, times a factor. single: the other quad has one pixel. */
INLINE void quad_product(float *arena, const int32_t *in, const int32_t *mul, const int32_t *out, const int32_t *ends,
                         const int quads, const int pixels, const int single, const float factor) {
    const limits limit = limits_at(ends);
    const range own = share(quads);
    for (int q = own.begin; q < own.end; q++)
        for (int p = 0; p < pixels; p += VEC) {
            const ivec a = load_words(arena + in[q] + p);
            const ivec b = single ? splat_word(*(const number *)(arena + mul[q])) : load_words(arena + mul[q] + p);
            vec value[4];
            multiply_bytes(value, a, b, ends[4], ends[5]);
            UNROLL for (int k = 0; k < 4; k++) value[k] *= splat(factor);
            store_words(arena + out[q] + p, to_bytes(value, limit, WIDE));
        }
}

/* The mean of each plane of bytes, as a plane of one pixel. */
INLINE void quad_mean(float *arena, const int32_t *in, const int32_t *out, const int32_t *ends, const int quads,
                      const int pixels, const float factor) {
    const limits limit = limits_at(ends);
    const range own = share(quads);
    for (int q = own.begin; q < own.end; q++) {
        const float *plane = arena + in[q];
        const int whole = pixels / VEC * VEC;
        ivec sum[4];
        vec value[4];
        UNROLL for (int k = 0; k < 4; k++) sum[k] = splat_word(0);
        for (int p = 0; p < whole; p += VEC)
            UNROLL for (int k = 0; k < 4; k++) sum[k] += byte_of(load_words(plane + p), k);
        for (int k = 0; k < 4; k++) {
            int32_t total = total_of(sum[k]) - pixels * ends[4];
            for (int p = whole; p < pixels; p++) total += (int32_t)((uint32_t)((const number *)plane)[p] >> (8 * k) & 255);
            value[k] = splat((float)total * factor);
        }
        store_words(arena + out[q], to_bytes(value, limit, WIDE));
    }
}

/* The last layer, in floats: to[o] = factors[o] * (biases[o] + the products). x: scratch for the words of all inputs.
 * Weights: for each 16 outputs, one word of each for every word of x. */
INLINE void quad_dense(const float *weights, const float *biases, const float *factors, float *arena, float *x,
                       float *to, const int32_t *in, const int inputs, const int pixels, const int outputs) {
    enum { VECTORS = 16 / VEC };
    const int depth = inputs * pixels;
    const range own = share((outputs + 15) / 16);
    for (int c = 0; c < inputs; c++)
        for (int p = 0; p < pixels; p++) ((number *)x)[c * pixels + p] = ((const number *)(arena + in[c]))[p];
    for (int block = own.begin; block < own.end; block++) {
        const float *w = weights + (int64_t)16 * block * depth;
        int32_t start[16];
        ivec sum[2][VECTORS];
        start_sums(start, biases + 16 * block, w, 16, depth);
        UNROLL for (int v = 0; v < VECTORS; v++) {
            sum[0][v] = load_words((const float *)(start + v * VEC));
            sum[1][v] = splat_word(0);
        }
        for (int i = 0; i < depth; i++) {
            const quad one = prepare(splat_word(((const number *)x)[i]));
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[0][v] = dot4(sum[0][v], one, prepare_weights(load_words(w + 16 * i + v * VEC)));
        }
        float value[16];
        UNROLL for (int v = 0; v < VECTORS; v++)
            store(value + v * VEC, to_floats(sum[0][v] + sum[1][v]) * load(factors + 16 * block + v * VEC));
        for (int o = 0; o < 16 && 16 * block + o < outputs; o++) to[16 * block + o] = value[o];
    }
}
