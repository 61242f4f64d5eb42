/* Depthwise convolutions of odd size k, padded by k / 2 on each side, image by image in working memory. */
typedef struct { long images; int height, width, channels, size, stride; } window;

INLINE int strided(int length, int stride) { return (length + stride - 1) / stride; }

/* One output row from a padded image; `chunk` pixels at a time, in registers. */
INLINE void chunk_of_row(int chunk, int size, int stride, const float *in, long in_row, int row, const float *w,
                         float *out) {
    vec sum[8];
    UNROLL
    for (int t = 0; t < chunk; t++) sum[t] = splat(0);
    for (int ky = 0; ky < size; ky++, in += in_row) {
        UNROLL
        for (int kx = 0; kx < size; kx++, w += row) {
            const vec weight = load(w);
            UNROLL
            for (int t = 0; t < chunk; t++) sum[t] += load(in + (long)(t * stride + kx) * row) * weight;
        }
    }
    UNROLL
    for (int t = 0; t < chunk; t++) store(out + (long)t * row, sum[t]);
}

INLINE void row_of(int size, int stride, int width, const float *in, long in_row, layout l, const float *w,
                   float *out) {
    const int row = l.row;
    for (int c = 0; c < l.padded; c += VEC) {
        int x = 0;
        for (; x + 8 <= width; x += 8)
            chunk_of_row(8, size, stride, in + (long)x * stride * row + c, in_row, row, w + c, out + (long)x * row + c);
        for (; x + 4 <= width; x += 4)
            chunk_of_row(4, size, stride, in + (long)x * stride * row + c, in_row, row, w + c, out + (long)x * row + c);
        for (; x < width; x++)
            chunk_of_row(1, size, stride, in + (long)x * stride * row + c, in_row, row, w + c, out + (long)x * row + c);
    }
}

static void output_row(int size, int stride, int width, const float *in, long in_row, layout l, const float *w,
                       float *out) {
    if (size == 3 && stride == 1)
        row_of(3, 1, width, in, in_row, l, w, out);
    else if (size == 5 && stride == 1)
        row_of(5, 1, width, in, in_row, l, w, out);
    else if (size == 3 && stride == 2)
        row_of(3, 2, width, in, in_row, l, w, out);
    else if (size == 5 && stride == 2)
        row_of(5, 2, width, in, in_row, l, w, out);
    else
        row_of(size, stride, width, in, in_row, l, w, out);
}

/* Weights (channels, size, size) -> (size, size, row); the other way round if `flip`. */
static void pack_window(const float *weight, const window *v, layout l, int flip, float *to) {
    const int area = v->size * v->size;
    memset(to, 0, (long)area * l.row * sizeof(float));
    for (int c = 0; c < l.channels; c++)
        for (int k = 0; k < area; k++) to[(long)(flip ? area - 1 - k : k) * l.row + c] = weight[c * area + k];
}

INLINE long padded_floats(const window *v, layout l) {
    return (long)(v->height + v->size - 1) * (v->width + v->size - 1) * l.row;
}

/* An image into the middle of a padded one. */
INLINE void enter_image(const pending *p, factors f, layout l, const window *v, long image, float *padded) {
    const int pad = v->size / 2, wide = v->width + 2 * pad;
    enter_lines(p, f, image * v->height * v->width, v->height, v->width, padded + ((long)pad * wide + pad) * l.row,
                l.row, (long)wide * l.row);
}

typedef struct {
    pending in;
    const float *weight;
    window v;
    float *z;
    int slices;
    layout l;
    moments *m;
} window_forward;

static void window_forward_slice(void *arguments, int slice, float *scratch) {
    const window_forward *w = (const window_forward *)arguments;
    const window *v = &w->v;
    const layout l = w->l;
    const int wide = v->width + v->size - 1;
    const int out_height = strided(v->height, v->stride), out_width = strided(v->width, v->stride);
    const factors f = pack_factors(&w->in, l, &scratch);
    float *weight = take(&scratch, (long)v->size * v->size * l.row), *padded = take(&scratch, padded_floats(v, l));
    float *out = take(&scratch, (long)out_width * l.row);
    pack_window(w->weight, v, l, 0, weight);
    memset(padded, 0, padded_floats(v, l) * sizeof(float));
    const long last = slice_start(v->images, w->slices, slice + 1);
    for (long image = slice_start(v->images, w->slices, slice); image < last; image++) {
        enter_image(&w->in, f, l, v, image, padded);
        for (int y = 0; y < out_height; y++) {
            output_row(v->size, v->stride, out_width, padded + (long)y * v->stride * wide * l.row, (long)wide * l.row,
                       l, weight, out);
            emit(w->m + slice, l, out, out_width, w->z + (image * out_height + y) * out_width * l.channels);
        }
    }
}

/* z (images, height / stride, width / stride, channels), its mean and biased variance. Weights: (channels, k, k). */
API void depthwise_forward(const pending *in, const float *weight, const window *v, float *z, float *mean,
                           float *variance, int threads) {
    const layout l = lay_out_parts(v->channels, 1, in->count);
    const int slices = (int)least(MOST_SLICES, v->images);
    window_forward w = {*in, weight, *v, z, slices, l, make_moments(slices, l)};
    const long floats = (3L + v->size * v->size + v->width) * l.row + padded_floats(v, l) + 8 * 16;
    cut(&w.in, l, v->images * v->height * v->width);
    run(window_forward_slice, &w, floats, slices, threads);
    merge_moments(w.m, slices, l, mean, variance);
    free(w.m), free(w.in.segments);
}

typedef struct {
    pending in;
    output_gradient of_z;
    const float *weight;
    window v;
    int slices;
    layout l;
    double *sums;
    float *gw; /* (slices, size, size, row) */
} window_backward;

/* Add to the weights' gradient what one row of the output's gradient says, for `at_once` rows of the window. */
INLINE void weights_of_vector(int size, int at_once, int stride, int width, const float *in, long in_row, int row,
                              const float *gz, float *gw) {
    vec sum[3][7];
    UNROLL
    for (int ky = 0; ky < at_once; ky++)
        UNROLL
        for (int kx = 0; kx < size; kx++) sum[ky][kx] = load(gw + (long)(ky * size + kx) * row);
    for (int x = 0; x < width; x++, in += (long)stride * row, gz += (long)stride * row) {
        const vec g = load(gz);
        UNROLL
        for (int ky = 0; ky < at_once; ky++)
            UNROLL
            for (int kx = 0; kx < size; kx++) sum[ky][kx] += load(in + ky * in_row + (long)kx * row) * g;
    }
    UNROLL
    for (int ky = 0; ky < at_once; ky++)
        UNROLL
        for (int kx = 0; kx < size; kx++) store(gw + (long)(ky * size + kx) * row, sum[ky][kx]);
}

INLINE void weights_of_row(int size, int at_once, int stride, int width, const float *in, long in_row, layout l,
                           const float *gz, float *gw) {
    for (int c = 0; c < l.padded; c += VEC) {
        int ky = 0;
        for (; ky + at_once <= size; ky += at_once)
            weights_of_vector(size, at_once, stride, width, in + ky * in_row + c, in_row, l.row, gz + c,
                              gw + (long)ky * size * l.row + c);
        for (; ky < size; ky++)
            weights_of_vector(size, 1, stride, width, in + ky * in_row + c, in_row, l.row, gz + c,
                              gw + (long)ky * size * l.row + c);
    }
}

static void window_backward_slice(void *arguments, int slice, float *scratch) {
    const window_backward *w = (const window_backward *)arguments;
    const window *v = &w->v;
    const layout l = w->l;
    const int pad = v->size / 2, wide = v->width + 2 * pad, area = v->size * v->size;
    const int out_height = strided(v->height, v->stride), out_width = strided(v->width, v->stride);
    const factors f = pack_factors(&w->in, l, &scratch);
    float *constant = take(&scratch, l.row), *by_z = take(&scratch, l.row);
    float *weight = take(&scratch, (long)area * l.row), *gx = take(&scratch, (long)v->width * l.row);
    /* the output's gradient lies at the pixels of the input that its strides meet, with zeros between them */
    float *padded = take(&scratch, padded_floats(v, l)), *gz = take(&scratch, padded_floats(v, l));
    float *gw = w->gw + (long)slice * area * l.row;
    const long out_pixels = v->images * out_height * out_width;
    const float *g_end = w->of_z.g + (out_pixels - 1) * w->of_z.step + l.channels;
    const float *z_end = w->of_z.z + out_pixels * l.channels;
    pack_window(w->weight, v, l, 1, weight);
    pack_gradient(&w->of_z, l, out_pixels, constant, by_z);
    memset(padded, 0, padded_floats(v, l) * sizeof(float)), memset(gz, 0, padded_floats(v, l) * sizeof(float));
    memset(gw, 0, (long)area * l.row * sizeof(float));
    const long last = slice_start(v->images, w->slices, slice + 1);
    for (long image = slice_start(v->images, w->slices, slice); image < last; image++) {
        enter_image(&w->in, f, l, v, image, padded);
        for (int y = 0; y < out_height; y++) {
            float *to = gz + ((long)(y * v->stride + pad) * wide + pad) * l.row;
            enter_gradient(&w->of_z, constant, by_z, l, (image * out_height + y) * out_width, out_width, g_end, z_end,
                           to, (long)v->stride * l.row);
            const float *in = padded + (long)y * v->stride * wide * l.row;
            if (v->size == 3)
                weights_of_row(3, 3, v->stride, out_width, in, (long)wide * l.row, l, to, gw);
            else if (v->size == 5)
                weights_of_row(5, 2, v->stride, out_width, in, (long)wide * l.row, l, to, gw);
            else
                weights_of_row(7, 1, v->stride, out_width, in, (long)wide * l.row, l, to, gw);
        }
        if (!w->in.parts->gx) continue;
        for (int y = 0; y < v->height; y++) {
            output_row(v->size, 1, v->width, gz + (long)y * wide * l.row, (long)wide * l.row, l, weight, gx);
            leave(&w->in, f, l, (image * v->height + y) * v->width, v->width,
                  padded + ((long)(y + pad) * wide + pad) * l.row, l.row, gx, w->sums + 2L * slice * l.row);
        }
    }
}

/* Gradients of the raw input, of its factors (3, channels), and of the weights. */
API void depthwise_backward(const pending *in, const output_gradient *of_z, const float *weight, const window *v,
                            float *of_factors, float *gw, int threads) {
    const layout l = lay_out_parts(v->channels, 1, in->count);
    const int slices = (int)least(MOST_SLICES, v->images), area = v->size * v->size;
    window_backward w = {*in, *of_z, weight, *v, slices, l, NULL, room((long)slices * area * l.row)};
    w.sums = (double *)calloc(2L * slices * l.row, sizeof(double));
    cut(&w.in, l, v->images * v->height * v->width);
    const long floats = (5L + area + v->width) * l.row + 2 * padded_floats(v, l) + 13 * 16;
    run(window_backward_slice, &w, floats, slices, threads);
    if (in->mean && in->parts->gx) merge_sums(w.sums, slices, l, in->scale, of_factors);
    add_slices(w.gw, slices, (long)area * l.row);
    for (int c = 0; c < l.channels; c++)
        for (int k = 0; k < area; k++) gw[c * area + k] = w.gw[(long)k * l.row + c];
    free(w.sums), free(w.gw), free(w.in.segments);
}
