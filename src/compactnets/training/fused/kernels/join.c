/* Element by element: what ends a pending normalisation, and the statistics of a tensor from elsewhere. */
typedef struct {
    pending a, b; /* b.parts: NULL if there is none */
    float low, high; /* bounds of the sum */
    float *y;
    const float *gy;
    long gy_step;
    long pixels;
    int slices;
    layout l;
    double *sums_a, *sums_b; /* (slices, 2, row) */
} join_work;

static void join_slice(void *arguments, int slice, float *scratch) {
    const join_work *w = (const join_work *)arguments;
    const layout l = w->l;
    const int two = w->b.parts != NULL, bounded = w->low > -INFINITY || w->high < INFINITY;
    const factors fa = pack_factors(&w->a, l, &scratch), fb = pack_factors(&w->b, l, &scratch);
    float *a = take(&scratch, BLOCK * l.row), *b = take(&scratch, BLOCK * l.row), *g = take(&scratch, BLOCK * l.row);
    const float *g_end = w->gy ? w->gy + (w->pixels - 1) * w->gy_step + l.channels : NULL;
    const vec low = splat(w->low), high = splat(w->high);
    const long last = slice_start(w->pixels, w->slices, slice + 1);
    memset(b, 0, BLOCK * l.row * sizeof(float));
    for (long p = slice_start(w->pixels, w->slices, slice), now; p < last; p += now) {
        now = least(BLOCK, last - p);
        enter(&w->a, fa, p, now, a, l.row);
        if (two) enter(&w->b, fb, p, now, b, l.row);
        FOR_VECTORS(l, at, from, n) for (long r = 0, i = at; r < now; r++, i += l.row) {
            const vec sum = load(a + i) + load(b + i);
            if (!w->gy) {
                put(w->y + (p + r) * l.channels + from, clamp(sum, low, high), n);
                continue;
            }
            const vec gy = get(w->gy + (p + r) * w->gy_step + from, n, g_end);
            store(g + i, bounded ? (vec)((ivec)gy & (sum > low) & (sum < high)) : gy);
        }
        if (w->gy && w->a.parts->gx) leave(&w->a, fa, l, p, now, a, l.row, g, w->sums_a + 2L * slice * l.row);
        if (w->gy && two && w->b.parts->gx) leave(&w->b, fb, l, p, now, b, l.row, g, w->sums_b + 2L * slice * l.row);
    }
}

static void join(join_work *w, int threads) {
    cut(&w->a, w->l, w->pixels), cut(&w->b, w->l, w->pixels);
    run(join_slice, w, (6L + 3 * BLOCK) * w->l.row + 9 * 16, w->slices, threads);
    free(w->a.segments), free(w->b.segments);
}

/* y (pixels, channels) = clamp(a + b, low, high) of the normalised terms; b->parts may be NULL. */
API void join_forward(const pending *a, const pending *b, float low, float high, long pixels, int channels, float *y,
                      int threads) {
    join_work w = {*a, *b, low, high, y, NULL, 0, pixels, (int)least(MOST_SLICES, pixels),
                   lay_out(channels, 1), NULL, NULL};
    join(&w, threads);
}

/* Gradients of the raw terms, and of their factors: (3, channels) each. */
API void join_backward(const pending *a, const pending *b, float low, float high, long pixels, int channels,
                       const float *gy, long gy_step, float *of_a, float *of_b, int threads) {
    const layout l = lay_out(channels, 1);
    const int slices = (int)least(MOST_SLICES, pixels);
    join_work w = {*a, *b, low, high, NULL, gy, gy_step, pixels, slices, l, NULL, NULL};
    w.sums_a = (double *)calloc(2L * slices * l.row, sizeof(double));
    w.sums_b = (double *)calloc(2L * slices * l.row, sizeof(double));
    join(&w, threads);
    if (a->mean && a->parts->gx) merge_sums(w.sums_a, slices, l, a->scale, of_a);
    if (b->parts && b->mean && b->parts->gx) merge_sums(w.sums_b, slices, l, b->scale, of_b);
    free(w.sums_a), free(w.sums_b);
}

typedef struct {
    pending in;
    long images, pixels; /* of an image */
    float *y; /* (images, channels) */
    const float *gy; /* the same, already divided by the pixels; NULL: forward */
    int slices;
    layout l;
    double *sums;
} pool_work;

static void pool_slice(void *arguments, int slice, float *scratch) {
    const pool_work *w = (const pool_work *)arguments;
    const layout l = w->l;
    const factors f = pack_factors(&w->in, l, &scratch);
    float *rows = take(&scratch, BLOCK * l.row), *g = take(&scratch, BLOCK * l.row), *sum = take(&scratch, l.row);
    const long last = slice_start(w->images, w->slices, slice + 1);
    for (long image = slice_start(w->images, w->slices, slice); image < last; image++) {
        memset(sum, 0, l.row * sizeof(float));
        if (w->gy) {
            pack_channels(w->gy + image * l.channels, l, sum);
            for (long r = 0; r < least(BLOCK, w->pixels); r++) memcpy(g + r * l.row, sum, l.row * sizeof(float));
        }
        for (long p = 0, now; p < w->pixels; p += now) {
            now = least(BLOCK, w->pixels - p);
            enter(&w->in, f, image * w->pixels + p, now, rows, l.row);
            if (w->gy) {
                leave(&w->in, f, l, image * w->pixels + p, now, rows, l.row, g, w->sums + 2L * slice * l.row);
                continue;
            }
            for (int c = 0; c < l.padded; c += VEC) {
                vec total = load(sum + c);
                for (long r = 0; r < now; r++) total += load(rows + r * l.row + c);
                store(sum + c, total);
            }
        }
        for (int c = 0; !w->gy && c < l.channels; c++) w->y[image * l.channels + c] = sum[c] / w->pixels;
    }
}

static void pool(pool_work *w, int threads) {
    cut(&w->in, w->l, w->images * w->pixels);
    run(pool_slice, w, (4L + 2 * BLOCK) * w->l.row + 6 * 16, w->slices, threads);
    free(w->in.segments);
}

/* y (images, channels): the mean of the normalised pixels of each image. */
API void pool_forward(const pending *in, long images, long pixels, int channels, float *y, int threads) {
    pool_work w = {*in, images, pixels, y, NULL, (int)least(MOST_SLICES, images), lay_out(channels, 1), NULL};
    pool(&w, threads);
}

/* Gradients of the raw tensor, and of its factors (3, channels); gy is divided by the pixels. */
API void pool_backward(const pending *in, long images, long pixels, int channels, const float *gy,
                       float *of_factors, int threads) {
    pool_work w = {*in, images, pixels, NULL, gy, (int)least(MOST_SLICES, images), lay_out(channels, 1), NULL};
    w.sums = (double *)calloc(2L * w.slices * w.l.row, sizeof(double));
    pool(&w, threads);
    if (in->mean && in->parts->gx) merge_sums(w.sums, w.slices, w.l, in->scale, of_factors);
    free(w.sums);
}

typedef struct {
    pending x;
    long pixels;
    int slices;
    layout l;
    moments *m;
} measure_work;

static void measure_slice(void *arguments, int slice, float *scratch) {
    const measure_work *w = (const measure_work *)arguments;
    const layout l = w->l;
    const factors none = pack_factors(&w->x, l, &scratch);
    float *rows = take(&scratch, BLOCK * l.row);
    const long last = slice_start(w->pixels, w->slices, slice + 1);
    for (long p = slice_start(w->pixels, w->slices, slice), now; p < last; p += now) {
        now = least(BLOCK, last - p);
        enter(&w->x, none, p, now, rows, l.row);
        emit(w->m + slice, l, rows, now, NULL);
    }
}

/* Mean and biased variance of x (pixels, channels). */
API void measure_forward(const float *x, long step, long pixels, int channels, float *mean, float *variance,
                         int threads) {
    const layout l = lay_out(channels, 1);
    const int slices = (int)least(MOST_SLICES, pixels);
    const part all = {x, step, NULL, 0, channels, 0};
    measure_work w = {{&all, 1, NULL, NULL, NULL, 0, 0, NULL, 0}, pixels, slices, l, make_moments(slices, l)};
    cut(&w.x, l, pixels);
    run(measure_slice, &w, (3L + BLOCK) * l.row + 5 * 16, slices, threads);
    merge_moments(w.m, slices, l, mean, variance);
    free(w.m), free(w.x.segments);
}
