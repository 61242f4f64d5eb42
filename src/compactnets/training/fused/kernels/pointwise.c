/* 1x1 convolutions: products of matrices, whose rows are normalised while they are read. */
enum { BLOCK = 48 }; /* pixels: a block's rows stay in the first-level cache */
static const int MOST_SLICES = 32;
static const long MOST_SUMS = 1L << 19; /* floats of the slices' weight gradients together */

/* c (ROWS x COLS vectors) = or += a b, over `depth`; a is read float by float. */
#define TILE(ROWS, COLS)                                                                                               \
    static void tile_##ROWS##_##COLS(long depth, const float *a, long a_row, long a_step, const float *b, long b_step, \
                                     float *c, long c_row, int add) {                                                  \
        vec sum[ROWS][COLS];                                                                                           \
        UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < COLS; v++) sum[r][v] =                        \
            add ? load(c + r * c_row + v * VEC) : splat(0);                                                            \
        for (long k = 0; k < depth; k++, a += a_step, b += b_step) {                                                   \
            vec right[COLS];                                                                                           \
            UNROLL for (int v = 0; v < COLS; v++) right[v] = load(b + v * VEC);                                        \
            UNROLL for (int r = 0; r < ROWS; r++) {                                                                    \
                const vec left = splat(a[r * a_row]);                                                                  \
                UNROLL for (int v = 0; v < COLS; v++) sum[r][v] += left * right[v];                                    \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int v = 0; v < COLS; v++)                                    \
            store(c + r * c_row + v * VEC, sum[r][v]);                                                                 \
    }
TILE(12, 1) TILE(12, 2) TILE(6, 1) TILE(6, 2) TILE(6, 3) TILE(4, 1) TILE(4, 2) TILE(4, 3)
TILE(2, 1) TILE(2, 2) TILE(2, 3) TILE(1, 1) TILE(1, 2) TILE(1, 3)

/* Vectors of the next panel: 2, but 3 rather than 2 and 1. */
INLINE int panel_width(int vectors) { return vectors == 3 ? 3 : vectors > 1 ? 2 : 1; }

/* c (rows x columns) = or += a b; columns is a multiple of VEC; b is in panels, or its rows are `b_step` apart. */
INLINE void multiply(int rows, int columns, long depth, const float *a, long a_row, long a_step, const float *b,
                     int panels, long b_step, float *c, long c_row, int add) {
    for (int n = 0, width; n < columns; n += width * VEC) {
        width = panel_width((columns - n) / VEC);
        const int most = width == 1 ? 12 : width == 2 ? TILE_ROWS : TILE_ROWS / 3 * 2; /* rows, in the registers */
        const long step = panels ? width * VEC : b_step;
        for (int m = 0, now; m < rows; m += now) {
            const int left = (int)least(rows - m, most);
#define USE(ROWS, WIDEST)                                                                                              \
    (now = ROWS, (width == 1 ? tile_##ROWS##_1 : width == 2 ? tile_##ROWS##_2 : tile_##ROWS##_##WIDEST)(               \
                     depth, a + m * a_row, a_row, a_step, b, step, c + m * c_row + n, c_row, add))
            if (left >= 12)
                USE(12, 2);
            else if (left >= 6)
                USE(6, 3);
            else if (left >= 4)
                USE(4, 3);
            else if (left >= 2)
                USE(2, 3);
            else
                USE(1, 3);
#undef USE
        }
        b += panels ? depth * width * VEC : width * VEC;
    }
}

/* Weights (rows, depth), or transposed, as panels (columns of the panel, depth, its vectors). */
static void pack_panels(const float *w, long of_column, long of_depth, int columns, int depth, float *to) {
    const int all = round_up(columns, VEC);
    for (int start = 0, width; start < all; start += width) {
        width = panel_width((all - start) / VEC) * VEC;
        for (int k = 0; k < depth; k++)
            for (int column = start; column < start + width; column++)
                *to++ = column < columns ? w[column * of_column + k * of_depth] : 0;
    }
}

INLINE long panel_floats(int columns, int depth) { return (long)round_up(columns, VEC) * depth; }

typedef struct {
    pending in;
    const float *panels; /* of every group */
    float *z;
    long pixels;
    int slices;
    layout x, y;
    moments *m;
} forward_work;

static void forward_slice(void *arguments, int slice, float *scratch) {
    const forward_work *w = (const forward_work *)arguments;
    const layout x = w->x, y = w->y;
    const factors f = pack_factors(&w->in, x, &scratch);
    float *rows = take(&scratch, BLOCK * x.row), *out = take(&scratch, BLOCK * y.row);
    const long last = slice_start(w->pixels, w->slices, slice + 1);
    for (long p = slice_start(w->pixels, w->slices, slice); p < last; p += BLOCK) {
        const int count = (int)least(BLOCK, last - p);
        enter(&w->in, f, p, count, rows, x.row);
        for (int g = 0; g < x.groups; g++)
            multiply(count, y.padded, x.each, rows + g * x.padded, x.row, 1,
                     w->panels + g * panel_floats(y.each, x.each), 1, 0, out + g * y.padded, y.row, 0);
        emit(w->m + slice, y, out, count, w->z + p * y.channels);
    }
}

/* z (pixels, out_channels) of the normalised input, and z's mean and biased variance. Weights: (out, in / groups). */
API void pointwise_forward(const pending *in, const float *weight, long pixels, int in_channels, int out_channels,
                           int groups, float *z, float *mean, float *variance, int threads) {
    const layout x = lay_out_parts(in_channels, groups, in->count), y = lay_out(out_channels, groups);
    const long each = panel_floats(y.each, x.each);
    float *panels = room(groups * each);
    for (int g = 0; g < groups; g++)
        pack_panels(weight + (long)g * y.each * x.each, x.each, 1, y.each, x.each, panels + g * each);
    const int slices = (int)least(MOST_SLICES, pixels);
    forward_work w = {*in, panels, z, pixels, slices, x, y, make_moments(slices, y)};
    cut(&w.in, x, pixels);
    run(forward_slice, &w, 3L * (x.row + 16) + BLOCK * ((long)x.row + y.row) + 64, slices, threads);
    merge_moments(w.m, slices, y, mean, variance);
    free(w.m), free(panels), free(w.in.segments);
}

typedef struct {
    pending in;
    output_gradient of_z;
    const float *panels;
    long pixels;
    int slices;
    layout x, y;
    double *sums; /* (slices, 2, row) */
    float *gw; /* (slices, out_channels, x.padded) */
} backward_work;

static void backward_slice(void *arguments, int slice, float *scratch) {
    const backward_work *w = (const backward_work *)arguments;
    const layout x = w->x, y = w->y;
    const factors f = pack_factors(&w->in, x, &scratch);
    float *constant = take(&scratch, y.row), *by_z = take(&scratch, y.row);
    float *rows = take(&scratch, BLOCK * x.row), *gx = take(&scratch, BLOCK * x.row);
    float *gz = take(&scratch, BLOCK * y.row);
    float *gw = w->gw + (long)slice * y.channels * x.padded;
    pack_gradient(&w->of_z, y, w->pixels, constant, by_z);
    const float *g_end = w->of_z.g + (w->pixels - 1) * w->of_z.step + y.channels;
    const float *z_end = w->of_z.z + w->pixels * y.channels;
    const long first = slice_start(w->pixels, w->slices, slice), last = slice_start(w->pixels, w->slices, slice + 1);
    for (long p = first; p < last; p += BLOCK) {
        const int count = (int)least(BLOCK, last - p);
        enter(&w->in, f, p, count, rows, x.row);
        enter_gradient(&w->of_z, constant, by_z, y, p, count, g_end, z_end, gz, y.row);
        for (int g = 0; g < x.groups; g++)
            multiply(y.each, x.padded, count, gz + g * y.padded, 1, y.row, rows + g * x.padded, 0, x.row,
                     gw + (long)g * y.each * x.padded, x.padded, p > first);
        if (!w->in.parts->gx) continue;
        for (int g = 0; g < x.groups; g++)
            multiply(count, x.padded, y.each, gz + g * y.padded, y.row, 1, w->panels + g * panel_floats(x.each, y.each),
                     1, 0, gx + g * x.padded, x.row, 0);
        leave(&w->in, f, x, p, count, rows, x.row, gx, w->sums + 2L * slice * x.row);
    }
}

/* Gradients of the raw input, of its factors (3, in_channels), and of the weights. */
API void pointwise_backward(const pending *in, const output_gradient *of_z, const float *weight, long pixels,
                            int in_channels, int out_channels, int groups, float *of_factors, float *gw,
                            int threads) {
    const layout x = lay_out_parts(in_channels, groups, in->count), y = lay_out(out_channels, groups);
    const long each = panel_floats(x.each, y.each), sums = (long)y.channels * x.padded;
    float *panels = room(groups * each);
    for (int g = 0; g < groups; g++)
        pack_panels(weight + (long)g * y.each * x.each, 1, x.each, x.each, y.each, panels + g * each);
    const int slices = (int)least(least(MOST_SLICES, pixels), sums * 8 < MOST_SUMS ? MOST_SUMS / sums : 8);
    backward_work w = {*in, *of_z, panels, pixels, slices, x, y, NULL, room(slices * sums)};
    w.sums = (double *)calloc(2L * slices * x.row, sizeof(double));
    cut(&w.in, x, pixels);
    run(backward_slice, &w, 3L * (x.row + 16) + 2L * (y.row + 16) + BLOCK * (2L * x.row + y.row) + 96, slices, threads);
    if (in->mean && in->parts->gx) merge_sums(w.sums, slices, x, in->scale, of_factors);
    add_slices(w.gw, slices, sums);
    for (int o = 0; o < y.channels; o++)
        memcpy(gw + (long)o * x.each, w.gw + (long)o * x.padded, x.each * sizeof(float));
    free(w.sums), free(w.gw), free(panels), free(w.in.segments);
}
