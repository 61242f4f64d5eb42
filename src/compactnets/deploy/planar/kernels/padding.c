/* Padded copies of planes, in scratch memory, that windows are read from.
 *
 * Rows are `pitch` floats apart, and the right margin of a row is also the left margin of the next. With stride 2 or
 * more, rows and columns are distributed over step_y * step_x phases, so that neighbouring outputs read neighbouring
 * floats: padded pixel (y, x) is in phase (y % step_y, x % step_x) at (y / step_y, x / step_x). Rows are written top to
 * bottom in whole vectors: what spills past the end of a row is margin, or is overwritten by the next row. */

/* exact: do not read past the end of the row */
INLINE void copy_row(float *to, const float *from, const int width, const float margin, const int exact) {
    const int whole = width / VEC * VEC;
    for (int x = 0; x < whole; x += VEC) store(to + x, load(from + x));
    if (whole < width && !exact) store(to + whole, first_of(load(from + whole), width - whole, splat(margin)));
    if (whole < width && exact)
        for (int x = whole; x < width; x++) to[x] = from[x];
}

/* Copy even and odd columns to separate places. */
INLINE void split_row(float *evens, float *odds, const float *from, const int width, const float margin,
                      const int exact) {
    const int whole = width / (2 * VEC) * VEC, rest = width - 2 * whole;
    for (int x = 0; x < whole; x += VEC) {
        const vec a = load(from + 2 * x), b = load(from + 2 * x + VEC);
        store(evens + x, even(a, b));
        store(odds + x, odd(a, b));
    }
    if (rest && !exact) {
        const vec a = load(from + 2 * whole), b = load(from + 2 * whole + VEC);
        store(evens + whole, first_of(even(a, b), (rest + 1) / 2, splat(margin)));
        store(odds + whole, first_of(odd(a, b), rest / 2, splat(margin)));
    }
    if (rest && exact)
        for (int x = 2 * whole; x < width; x++) (x % 2 ? odds : evens)[x / 2] = from[x];
}

/* Fill `rows` rows of a padded plane, from its row `start`, a multiple of step_y. size: floats per phase. */
INLINE void pad_rows(float *padded, const float *from, const int start, const int rows, const int height,
                     const int width, const int top, const int left, const int step_y, const int step_x,
                     const int pitch, const int size, const float margin, const int exact) {
    for (int r = 0; r < rows; r++) {
        const int y = start + r - top;
        float *row = padded + r % step_y * step_x * size + r / step_y * pitch;
        if (y < 0 || y >= height) {
            for (int phase = 0; phase < step_x; phase++)
                for (int x = 0; x < pitch; x += VEC) store(row + phase * size + x, splat(margin));
            continue;
        }
        const float *source = from + y * width;
        if (step_x == 1)
            copy_row(row + left, source, width, margin, exact);
        else if (step_x == 2)
            split_row(row + left % 2 * size + left / 2, row + (left + 1) % 2 * size + (left + 1) / 2, source, width,
                      margin, exact);
        else
            for (int x = 0; x < width; x++) row[(x + left) % step_x * size + (x + left) / step_x] = source[x];
    }
}

/* Fill everything with the margin's value, once per layer: pad_rows does not write outside its rows. */
INLINE void clear(float *padded, const int floats, const float margin) {
    for (int i = 0; i < floats; i += VEC) store(padded + i, splat(margin));
}
