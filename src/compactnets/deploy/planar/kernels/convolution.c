/* Convolution with a window, as a pointwise convolution: each position of the window acts as an input plane.
 *
 * Computed in bands of `band` rows. The input rows of a band are padded (padding.c), and the tiles of pointwise.c run
 * over the padded rows, margins included. Rows of whole vectors are finished at once; others go to `flat`, from where
 * they are finished and stored without the margins. places: offset in the padded planes of each input and position. */
INLINE void convolution_tiles(const int M, const range tiles, const float *weights, const float *biases,
                              const float *padded, float *flat, float *arena, const int32_t *places,
                              const int32_t *out, const int32_t *mul, const int32_t *add, const int depth,
                              const int rows, const int width, const int pitch, const int first, const int last) {
    const int vectors = ((rows - 1) * pitch + width + VEC - 1) / VEC;
    const range all = {0, BLOCKS(vectors)};
    if (width % VEC == 0) { /* rows of whole vectors: finished as they are computed */
        const range row = {0, BLOCKS(width / VEC)};
        for (int t = tiles.begin; t < tiles.end; t++)
            for (int y = 0; y < rows; y++) {
                const int o = t * M;
#define CALL(N, V) \
    pointwise_tile(M, N, depth, weights + o * depth, biases + o, padded + y * pitch + (V) * VEC, places, \
                   arena + y * width + (V) * VEC, out + o, mul ? mul + o : 0, add ? add + o : 0, 0, NOTHING, first, last)
                FOR_BLOCKS(width / VEC, row, CALL)
#undef CALL
            }
        return;
    }
    int32_t to[ROWS];
    for (int m = 0; m < M; m++) to[m] = m * vectors * VEC;
    for (int t = tiles.begin; t < tiles.end; t++) {
        const int o = t * M;
#define CALL(N, V) \
    pointwise_tile(M, N, depth, weights + o * depth, biases + o, padded + (V) * VEC, places, flat + (V) * VEC, to, 0, \
                   0, 0, NOTHING, NONE, NONE)
        FOR_BLOCKS(vectors, all, CALL)
#undef CALL
        for (int m = 0; m < M; m++)
            for (int y = 0; y < rows; y++)
                for (int x = 0; x < width; x += VEC) {
                    const int at = y * width + x;
                    finish(load(flat + m * vectors * VEC + y * pitch + x), arena + out[o + m] + at,
                           mul ? arena + mul[o + m] + at : 0, add ? arena + add[o + m] + at : 0, first, last);
                }
    }
}

/* size: floats per phase of a padded plane; reach: rows that the dilated window spans. Threads share the output planes,
 * and each pads the input for itself. */
INLINE void convolution(const float *weights, const float *biases, const float *from, float *arena, float *padded,
                        const int32_t *in, const int32_t *places, const int32_t *out, const int32_t *mul,
                        const int32_t *add, const int groups, const int inputs, const int taps, const int high,
                        const int tall, const int small, const int height, const int width, const int out_height,
                        const int out_width, const int band, const int reach, const int top, const int left,
                        const int step_y, const int step_x, const int pitch, const int size, const int exact,
                        const int behind, const int first, const int last) {
    const int tallest = high * tall, outputs = tallest + (high - 1) * small;
    const int depth = inputs * taps, plane = step_y * step_x * size;
    const range own = share(groups * (tall + small));
    float *flat = padded + behind;
    for (int g = 0; g < groups; g++) {
        const range talls = within(own, g * (tall + small), tall);
        const range smalls = within(own, g * (tall + small) + tall, small);
        const int idle = talls.begin >= talls.end && smalls.begin >= smalls.end;
        if (!idle) clear(padded, inputs * plane, 0.0f);
        for (int start = 0; start < out_height && !idle; start += band) {
            const int rows = start + band <= out_height ? band : out_height - start;
            for (int c = 0; c < inputs; c++)
                pad_rows(padded + c * plane, from + in[c], start * step_y, (rows - 1) * step_y + reach, height, width,
                         top, left, step_y, step_x, pitch, size, 0.0f, exact);
            float *to = arena + start * out_width;
            convolution_tiles(high, talls, weights, biases, padded, flat, to, places, out, mul, add, depth, rows,
                              out_width, pitch, first, last);
            if (small)
                convolution_tiles(high - 1, smalls, weights + tallest * depth, biases + tallest, padded, flat, to,
                                  places, out + tallest, mul ? mul + tallest : 0, add ? add + tallest : 0, depth, rows,
                                  out_width, pitch, first, last);
        }
        weights += outputs * depth, biases += outputs, in += inputs, out += outputs;
        if (mul) mul += outputs;
        if (add) add += outputs;
    }
}
