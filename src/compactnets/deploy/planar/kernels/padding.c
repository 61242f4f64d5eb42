/* Planes with a margin, in a scratch area of the arena, from which windows are read.
 *
 * With stride 1 a row is `pitch` floats from the next, and the margin at the end of a row is that before the next one.
 * With other strides rows and columns are dealt out to step_y * step_x phases, so that the pixels a window takes from
 * neighbouring places lie side by side: pixel (y, x) of the plane with its margin is in phase (y % step_y, x % step_x)
 * at (y / step_y, x / step_x). Rows are written top to bottom in whole vectors: what is behind a row's end is margin,
 * or the start of the next row, which is written later. */

/* `exact`: nothing may be read past the row's end */
INLINE void copy_row(float *to, const float *from, const int width, const float margin, const int exact) {
    const int whole = width / VEC * VEC;
    for (int x = 0; x < whole; x += VEC) store(to + x, load(from + x));
    if (whole < width && !exact) store(to + whole, first_of(load(from + whole), width - whole, splat(margin)));
    if (whole < width && exact)
        for (int x = whole; x < width; x++) to[x] = from[x];
}

/* even columns to one place and odd ones to another */
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

/* `rows` rows of a padded plane, from its row `start` on, which is a multiple of step_y; `size`: floats of a phase */
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

/* the margin before and behind the rows, once a layer */
INLINE void clear(float *padded, const int floats, const float margin) {
    for (int i = 0; i < floats; i += VEC) store(padded + i, splat(margin));
}
