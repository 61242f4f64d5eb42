/* Vectors, and rows of channels.
 *
 * Tensors are (pixels, channels) matrices of float, in channels_last layout; a row is the channels of a pixel, and rows
 * may be further apart than they are long. In working memory a row is packed: each group of channels begins at a
 * multiple of VEC and is filled up with zeros, so that every vector is full whatever the number of channels is.
 *
 * A kernel cuts its pixels or images into slices, whose number depends on the shape alone. Every slice has sums of its
 * own, which are added in order: results do not depend on the number of threads. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC 16
#elif defined(__AVX__)
#define VEC 8
#else
#define VEC 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_ROWS 12 /* of 2 vectors, in 32 registers */
#else
#define TILE_ROWS 6 /* in 16 registers */
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define API __attribute__((visibility("default")))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef float vec __attribute__((vector_size(4 * VEC)));
typedef int32_t ivec __attribute__((vector_size(4 * VEC)));
typedef float loose __attribute__((vector_size(4 * VEC), aligned(4), may_alias)); /* at the address of any float */

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE void store(float *to, vec value) { *(loose *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE int round_up(int value, int step) { return (value + step - 1) / step * step; }

/* The first `count` floats, and zeros; without masks, a whole vector is read unless that would pass `end`. */
INLINE vec load_part(const float *from, int count, const float *end) {
#if defined(__AVX512F__)
    (void)end;
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    vec value = {0};
    if (from + VEC <= end) {
        ivec lane;
        UNROLL
        for (int i = 0; i < VEC; i++) lane[i] = i;
        value = (vec)((ivec)load(from) & (lane < count));
    } else
        memcpy(&value, from, count * sizeof(float));
    return value;
#endif
}

INLINE void store_part(float *to, vec value, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)value);
#else
    const float *from = (const float *)&value;
    int done = 0;
    UNROLL
    for (int part = VEC / 2; part; part /= 2)
        if (count & part) memcpy(to + done, from + done, part * sizeof(float)), done += part;
#endif
}

/* Add the first `count` floats to sums in double precision. */
INLINE void add_to(double *sums, vec value, int count) {
#if defined(__AVX512F__)
    const __m512 kept = _mm512_maskz_mov_ps((__mmask16)((1u << count) - 1), (__m512)value);
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(kept));
    const __m512d high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(kept), 1)));
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
    _mm512_storeu_pd(sums + 8, _mm512_add_pd(_mm512_loadu_pd(sums + 8), high));
#else
    for (int i = 0; i < count; i++) sums[i] += value[i];
#endif
}

/* A packed row: `padded` floats of every group. Rows are `row` apart, never a power of two, lest they fall on the same
 * lines of the cache. */
typedef struct { int channels, groups, each, padded, row; } layout;

INLINE layout lay_out(int channels, int groups) {
    const int each = channels / groups, padded = round_up(each, VEC), row = groups * padded;
    return (layout){channels, groups, each, padded, row % 64 ? row : row + VEC};
}

/* With room behind a row, for a vector that begins at any of its channels. */
INLINE layout lay_out_parts(int channels, int groups, int parts) {
    layout l = lay_out(channels, groups);
    if (parts > 1) l.row = groups * l.padded + VEC, l.row += l.row % 64 ? 0 : VEC;
    return l;
}

/* Visit the vectors of a row: `at` in the packed row, `from` in the tensor's, with `n` channels. */
#define FOR_VECTORS(l, at, from, n)                                                                                    \
    for (int g_ = 0; g_ < (l).groups; g_++)                                                                            \
        for (int c_ = 0, at = g_ * (l).padded, from = g_ * (l).each, n;                                                \
             c_ < (l).each && (n = (int)least((l).each - c_, VEC), 1); c_ += VEC, at += VEC, from += VEC)

/* Call a function with `n` as a constant where the vector is full. */
#define WITH_COUNT(n, function, ...) (n) == VEC ? function(VEC, __VA_ARGS__) : function(n, __VA_ARGS__)

INLINE vec get(const float *from, int count, const float *end) {
    return count == VEC ? load(from) : load_part(from, count, end);
}

INLINE void put(float *to, vec value, int count) {
    if (count == VEC)
        store(to, value);
    else
        store_part(to, value, count);
}

INLINE void put_or_add(float *to, vec value, int count, int add) {
    put(to, add ? value + get(to, count, NULL) : value, count);
}

/* Rows ahead of those in work that are fetched from memory, where the rows in work are few; else as many as they. */
#define AHEAD 48

/* Working memory, in multiples of a cache line. */
INLINE float *take(float **scratch, long floats) {
    float *taken = *scratch;
    *scratch += (floats + 15) / 16 * 16;
    return taken;
}

INLINE float *room(long floats) { /* 64 bytes more, as `take` rounds up; several requests: add 16 for each */
    void *memory = NULL;
    return posix_memalign(&memory, 64, floats * sizeof(float) + 64) ? NULL : (float *)memory;
}

/* (channels,) -> a packed row */
INLINE void pack_channels(const float *from, layout l, float *to) {
    memset(to, 0, l.row * sizeof(float));
    for (int g = 0; g < l.groups; g++) memcpy(to + g * l.padded, from + g * l.each, l.each * sizeof(float));
}

/* Some channels of a tensor, and where their gradient goes (NULL: not wanted) or is added; rows are `step` apart. */
typedef struct { const float *x; long step; float *gx; long gx_step; int channels, add; } part;

/* At most VEC channels of a part, which lie next to each other in a packed row too. */
typedef struct {
    const float *x, *end; /* of the part: nothing beyond may be read */
    float *gx;
    long step, gx_step;
    int at, channels, add; /* place in the packed row */
} segment;

/* A tensor whose normalisation and bounds are still to be applied: clamp((x - mean) * scale + bias, low, high). */
typedef struct {
    const part *parts; /* of the channels, in order */
    int count;
    const float *mean, *scale, *bias; /* (channels,); NULL: x is used as it is */
    float low, high;
    segment *segments; /* in a kernel */
    int segment_count;
} pending;

/* Cut the parts into segments; the caller frees them. */
static void cut(pending *p, layout l, long rows) {
    p->segments = (segment *)malloc((l.channels / VEC + l.groups + p->count + 1) * sizeof(segment));
    int found = 0, channel = 0;
    for (const part *one = p->parts; one < p->parts + p->count; one++)
        for (int from = 0, now; from < one->channels; from += now, channel += now) {
            const int in_group = channel % l.each;
            now = (int)least(least(VEC, one->channels - from), l.each - in_group);
            p->segments[found++] = (segment){
                one->x + from, one->x + (rows - 1) * one->step + one->channels, one->gx ? one->gx + from : NULL,
                one->step, one->gx_step, channel / l.each * l.padded + in_group, now, one->add};
        }
    p->segment_count = found;
}

typedef struct { float *mean, *scale, *shift; } factors; /* packed */

INLINE factors pack_factors(const pending *p, layout l, float **scratch) {
    factors f = {take(scratch, l.row), take(scratch, l.row), take(scratch, l.row)};
    if (!p->mean) return f;
    pack_channels(p->mean, l, f.mean), pack_channels(p->scale, l, f.scale), pack_channels(p->bias, l, f.shift);
    for (int c = 0; c < l.row; c++) f.shift[c] -= f.mean[c] * f.scale[c];
    return f;
}

INLINE vec clamp(vec y, vec low, vec high) { /* NaN stays: of two operands, the instructions return the second */
#if defined(__AVX512F__)
    return (vec)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)y));
#elif defined(__AVX__)
    return (vec)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)y));
#else
    y = choose(y < low, low, y);
    return choose(y > high, high, y);
#endif
}

/* `lines` of `count` rows each, normalised and packed, to `to`; rows are `step` apart, lines `line_step`. */
INLINE void enter_segment(int n, const segment *s, int normalised, vec low, vec high, vec scale, vec shift, long row,
                          long lines, long count, float *to, long step, long line_step) {
    const float *end = s->end;
    const long x_step = s->step, ahead = (lines > 1 ? AHEAD : count) * x_step;
    const float *x = s->x + row * x_step;
    for (; lines; lines--, to += line_step)
        for (long r = 0; r < count; r++, x += x_step) {
            __builtin_prefetch(x + ahead);
            const vec value = get(x, n, end);
            store(to + r * step, normalised ? clamp(value * scale + shift, low, high) : value);
        }
}

INLINE void enter_lines(const pending *p, factors f, long row, long lines, long count, float *to, long step,
                        long line_step) {
    const vec low = splat(p->low), high = splat(p->high), none = splat(0);
    /* whole vectors: the next segment overwrites what one writes too much */
    for (const segment *s = p->segments; s < p->segments + p->segment_count; s++)
        if (p->mean)
            WITH_COUNT(s->channels, enter_segment, s, 1, low, high, load(f.scale + s->at), load(f.shift + s->at), row,
                       lines, count, to + s->at, step, line_step);
        else
            WITH_COUNT(s->channels, enter_segment, s, 0, low, high, none, none, row, lines, count, to + s->at, step,
                       line_step);
}

INLINE void enter(const pending *p, factors f, long row, long count, float *to, long step) {
    enter_lines(p, f, row, 1, count, to, step, 0);
}

/* From the gradient of normalised rows `y`, both packed, to that of the raw rows. Adds to the sums for the gradients of
 * bias and scale. */
INLINE void leave_segment(int n, const segment *s, int add, vec low, vec high, vec mean, vec scale, long row,
                          long count, const float *y, long y_step, const float *gy, long gy_step, double *of_bias,
                          double *of_scale) {
    const float *end = s->end;
    const long x_step = s->step, gx_step = s->gx_step;
    const float *x = s->x + row * x_step;
    float *gx = s->gx + row * gx_step;
    vec bias_sum = {0}, scale_sum = {0};
    for (long r = 0; r < count; r++, x += x_step, gx += gx_step) {
        __builtin_prefetch(gx + count * gx_step, 1);
        const vec value = load(y + r * y_step);
        const vec g = (vec)((ivec)load(gy + r * gy_step) & (value > low) & (value < high));
        bias_sum += g, scale_sum += g * (get(x, n, end) - mean);
        put_or_add(gx, g * scale, n, add);
    }
    add_to(of_bias, bias_sum, n), add_to(of_scale, scale_sum, n);
}

INLINE void pass_segment(int n, const segment *s, int add, long row, long count, const float *gy, long gy_step) {
    const long gx_step = s->gx_step;
    float *gx = s->gx + row * gx_step;
    for (long r = 0; r < count; r++, gx += gx_step) put_or_add(gx, load(gy + r * gy_step), n, add);
}

/* `sums`: (2, row) */
INLINE void leave(const pending *p, factors f, layout l, long row, long count, const float *y, long y_step,
                  const float *gy, double *sums) {
    const vec low = splat(p->low), high = splat(p->high);
    for (const segment *s = p->segments; s < p->segments + p->segment_count; s++) {
#define LEAVE(add)                                                                                                     \
    WITH_COUNT(s->channels, leave_segment, s, add, low, high, load(f.mean + s->at), load(f.scale + s->at), row, count, \
               y + s->at, y_step, gy + s->at, l.row, sums + s->at, sums + l.row + s->at)
        if (!p->mean)
            WITH_COUNT(s->channels, pass_segment, s, s->add, row, count, gy + s->at, l.row);
        else if (s->add)
            LEAVE(1);
        else
            LEAVE(0);
#undef LEAVE
    }
}

/* The gradient of a convolution's output: its own, and by way of the output's mean and variance. */
typedef struct {
    const float *g;
    long step;
    const float *z, *mean; /* z is contiguous */
    const float *g_mean, *g_variance; /* (channels,) */
} output_gradient;

/* The gradient is g + constant + by_z * z; both packed. */
static void pack_gradient(const output_gradient *o, layout l, long pixels, float *constant, float *by_z) {
    memset(constant, 0, l.row * sizeof(float)), memset(by_z, 0, l.row * sizeof(float));
    for (int g = 0, c = 0; g < l.groups; g++)
        for (int at = g * l.padded; at < g * l.padded + l.each; at++, c++) {
            by_z[at] = o->g_variance[c] * (2.0f / pixels);
            constant[at] = o->g_mean[c] / pixels - o->mean[c] * by_z[at];
        }
}

INLINE void enter_gradient_vector(int n, const float *g, long g_step, const float *end, const float *z, long z_step,
                                  const float *z_end, vec constant, vec by_z, long count, float *to, long step) {
    for (long r = 0; r < count; r++) {
        __builtin_prefetch(g + (r + count) * g_step), __builtin_prefetch(z + (r + count) * z_step);
        store(to + r * step, get(g + r * g_step, n, end) + constant + by_z * get(z + r * z_step, n, z_end));
    }
}

INLINE void enter_gradient(const output_gradient *o, const float *constant, const float *by_z, layout l, long row,
                           long count, const float *end, const float *z_end, float *to, long step) {
    const float *g = o->g + row * o->step, *z = o->z + row * l.channels;
    FOR_VECTORS(l, at, from, n)
    WITH_COUNT(n, enter_gradient_vector, g + from, o->step, end, z + from, l.channels, z_end, load(constant + at),
               load(by_z + at), count, to + at, step);
}

/* Sums of a slice's rows, for mean and variance. What is summed is the difference from the slice's first row: squares
 * of the numbers themselves would cancel. */
typedef struct { float *first; double *sum, *square; long count; } moments;

INLINE void emit_vector(int n, vec first, double *sum_to, double *square_to, const float *rows, long step, long count,
                        float *z, long z_step) {
    vec sum = {0}, square = {0};
    for (long r = 0; r < count; r++) {
        const vec value = load(rows + r * step), difference = value - first;
        sum += difference, square += difference * difference;
        if (z) __builtin_prefetch(z + (r + count) * z_step, 1), put(z + r * z_step, value, n);
    }
    add_to(sum_to, sum, VEC), add_to(square_to, square, VEC);
}

/* Write a block of packed rows to z, unless that is NULL, and add it to the sums. */
INLINE void emit(moments *m, layout l, const float *rows, long count, float *z) {
    if (!m->count) memcpy(m->first, rows, l.row * sizeof(float));
    m->count += count;
    FOR_VECTORS(l, at, from, n)
    WITH_COUNT(n, emit_vector, load(m->first + at), m->sum + at, m->square + at, rows + at, l.row, count,
               z ? z + from : NULL, l.channels);
}

/* Mean and biased variance over all slices, (channels,) each. */
static void merge_moments(const moments *m, int slices, layout l, float *mean, float *variance) {
    for (int channel = 0; channel < l.channels; channel++) {
        const int at = channel / l.each * l.padded + channel % l.each;
        double total = 0, square = 0;
        long count = 0;
        for (int s = 0; s < slices; s++)
            total += m[s].sum[at] + (double)m[s].first[at] * m[s].count, count += m[s].count;
        const double middle = total / count;
        for (int s = 0; s < slices; s++) {
            const double own = m[s].sum[at] / m[s].count, apart = own + m[s].first[at] - middle;
            square += m[s].square[at] - own * m[s].sum[at] + apart * apart * m[s].count;
        }
        mean[channel] = (float)middle;
        variance[channel] = square > 0 ? (float)(square / count) : square == square ? 0 : NAN;
    }
}

static moments *make_moments(int slices, layout l) {
    const size_t each = sizeof(moments) + l.row * (2 * sizeof(double) + sizeof(float));
    moments *all = (moments *)calloc(slices, each);
    double *sums = (double *)(all + slices);
    float *first = (float *)(sums + 2L * slices * l.row);
    for (int s = 0; s < slices; s++)
        all[s] = (moments){first + (long)s * l.row, sums + 2L * s * l.row, sums + (2L * s + 1) * l.row, 0};
    return all;
}

/* Gradients of mean, scale and bias, (3, channels). */
static void merge_sums(const double *sums, int slices, layout l, const float *scales, float *of_factors) {
    for (int channel = 0; channel < l.channels; channel++) {
        const int at = channel / l.each * l.padded + channel % l.each;
        double bias = 0, scale = 0;
        for (int s = 0; s < slices; s++) bias += sums[2L * s * l.row + at], scale += sums[(2L * s + 1) * l.row + at];
        of_factors[channel] = -scales[channel] * (float)bias;
        of_factors[l.channels + channel] = (float)scale, of_factors[2 * l.channels + channel] = (float)bias;
    }
}

/* Add up what the slices have, each `count` floats, in the first of them. */
static void add_slices(float *all, int slices, long count) {
    for (int s = 1; s < slices; s++)
        for (long i = 0; i < count; i++) all[i] += all[s * count + i];
}

/* Threads: torch's own OpenMP, if the process has one. Every other kernel takes its slices from the last to the first:
 * what the kernel before it wrote last is still in the cache. */
typedef struct {
    void (*body)(void *, int, float *);
    void *arguments;
    long floats;
    int slices, next, backwards;
} work;

typedef void (*start_threads)(void (*)(void *), void *, unsigned, unsigned);
static start_threads start;
API void use_threads(start_threads gomp_parallel) { start = gomp_parallel; }

static void take_slices(void *shared) {
    work *w = (work *)shared;
    float *scratch = room(w->floats);
    for (int i; (i = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->slices;)
        w->body(w->arguments, w->backwards ? w->slices - 1 - i : i, scratch);
    free(scratch);
}

static void run(void (*body)(void *, int, float *), void *arguments, long floats, int slices, int threads) {
    static int calls;
    work w = {body, arguments, floats, slices, 0, __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) & 1};
    if (threads > 1 && slices > 1 && start)
        start(take_slices, &w, threads, 0);
    else
        take_slices(&w);
}

INLINE long slice_start(long count, int slices, int slice) { return count * slice / slices; }
