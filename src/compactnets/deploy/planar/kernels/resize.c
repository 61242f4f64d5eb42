/* Bilinear scaling of planes, as PyTorch's upsample_bilinear2d.
 *
 * The columns come first, once for every row of the input that an output row needs; the last two such rows are kept.
 * Output rows are weighted sums of them, in whole vectors: what spills past the end of a row is overwritten by the
 * next. aligned: whether the pixels at the corners fall on each other (align_corners); otherwise the edges do. */

/* Where output pixel i lies among `size` pixels: after the pixel that is returned, by *part of the way to the next. */
INLINE int source_of(const int i, const int size, const int out_size, const int aligned, float *part) {
    const float step = aligned ? (float)(size - 1) / (float)(out_size > 1 ? out_size - 1 : 1) : (float)size / (float)out_size;
    const float at = aligned ? step * (float)i : step * ((float)i + 0.5f) - 0.5f;
    const int before = at < 0.0f ? 0 : at < (float)(size - 1) ? (int)at : size - 1;
    *part = at < (float)before ? 0.0f : at - (float)before;
    return before;
}

/* One row of the input, with the columns of the output. before and parts: of every column, as source_of gives them. */
INLINE void resize_row(float *to, const float *from, const float *before, const float *parts, const int width,
                       const int columns) {
    for (int x = 0; x < columns; x++) {
        const int i = (int)before[x];
        const float next = from[i + (i < width - 1)];
        to[x] = (1.0f - parts[x]) * from[i] + parts[x] * next;
    }
}

/* scratch: four rows of the output, each rounded up to whole vectors. */
INLINE void resize(const float *from, float *arena, float *scratch, const int32_t *in, const int32_t *out,
                   const int32_t *mul, const int32_t *add, const int planes, const int height, const int width,
                   const int out_height, const int out_width, const int aligned, const int first, const int last) {
    const int columns = (out_width + VEC - 1) / VEC * VEC;
    float *before = scratch, *parts = scratch + columns, *rows = scratch + 2 * columns;
    const range own = share(planes);
    for (int x = 0; x < columns && own.begin < own.end; x++)
        before[x] = (float)source_of(x < out_width ? x : out_width - 1, width, out_width, aligned, parts + x);
    for (int c = own.begin; c < own.end; c++) {
        int kept[2] = {-1, -1};
        for (int y = 0; y < out_height; y++) {
            float part;
            const int above = source_of(y, height, out_height, aligned, &part), below = above + (above < height - 1);
            for (int row = above; row <= below; row++)
                if (kept[row % 2] != row) {
                    resize_row(rows + row % 2 * columns, from + in[c] + row * width, before, parts, width, columns);
                    kept[row % 2] = row;
                }
            const float *one = rows + above % 2 * columns, *other = rows + below % 2 * columns;
            const int at = y * out_width;
            for (int x = 0; x < columns; x += VEC)
                finish(fma_(splat(part), load(other + x), splat(1.0f - part) * load(one + x)), arena + out[c] + at + x,
                       mul ? arena + mul[c] + at + x : 0, add ? arena + add[c] + at + x : 0, first, last);
        }
    }
}
