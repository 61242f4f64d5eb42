/* Vectors of pixels.
 *
 * A vector has VEC floats, the widest that the target supports: 16 (AVX-512), 8 (AVX), 4 (SSE, NEON, WebAssembly SIMD),
 * or 1, which makes everything plain C; -DPLANAR_VEC=1 forces that. REGISTERS is the number of vector registers, which
 * determines the size of register tiles. */
#if defined(PLANAR_VEC)
#define VEC PLANAR_VEC
#elif defined(__AVX512F__)
#define VEC 16
#elif defined(__AVX__)
#define VEC 8
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define VEC 4
#else
#define VEC 1
#endif

#if defined(PLANAR_REGISTERS)
#define REGISTERS PLANAR_REGISTERS
#elif defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

#define INLINE static inline __attribute__((always_inline, unused))
/* nonnull: otherwise the optional inputs would be tested for null in the inner loops */
#define LAYER static __attribute__((noinline, unused, nonnull))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

#if VEC == 1
typedef float vec;
typedef int32_t ivec;
typedef float loose;
#else
typedef float vec __attribute__((vector_size(4 * VEC)));
typedef int32_t ivec __attribute__((vector_size(4 * VEC)));
typedef float loose __attribute__((vector_size(4 * VEC), aligned(4), may_alias)); /* at the address of any float */
#endif

/* This thread's share of `count` items. All threads of a run execute every layer, with a barrier after each. Without
 * OpenMP there is one thread. */
typedef struct { int begin, end; } range;

INLINE range share(const int count) {
    range own = {0, count};
#if defined(_OPENMP)
    const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
    own.begin = (int)((int64_t)count * thread / threads), own.end = (int)((int64_t)count * (thread + 1) / threads);
#endif
    return own;
}

/* The part of `own` within items `start` to `start + count`, relative to `start`. */
INLINE range within(const range own, const int start, const int count) {
    range part;
    part.begin = own.begin - start < 0 ? 0 : own.begin - start;
    part.end = own.end - start > count ? count : own.end - start;
    return part;
}

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE void store(float *to, vec value) { *(loose *)to = value; }

/* Keep a loaded vector in a register. Without this, GCC folds the load into each of the multiply-adds that use it. */
#if VEC == 16 && defined(__AVX512F__)
#define KEEP(value) __asm__("" : "+v"(value))
#elif (VEC == 8 && defined(__AVX__)) || (VEC == 4 && defined(__SSE2__))
#define KEEP(value) __asm__("" : "+x"(value))
#elif VEC == 4 && defined(__aarch64__)
#define KEEP(value) __asm__("" : "+w"(value))
#else
#define KEEP(value)
#endif

INLINE vec splat(float value) {
#if VEC == 1
    return value;
#elif VEC == 4
    vec all = {value, value, value, value};
    return all;
#elif VEC == 8
    vec all = {value, value, value, value, value, value, value, value};
    return all;
#else
    vec all = {value, value, value, value, value, value, value, value,
               value, value, value, value, value, value, value, value};
    return all;
#endif
}

/* a * b + c, fused where the target has the instruction */
INLINE vec fma_(vec a, vec b, vec c) {
#if VEC == 16 && defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VEC == 8 && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif VEC == 4 && defined(__FMA__)
    return (vec)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif VEC == 4 && defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* The larger of two; if b is NaN, NaN, so that activations propagate it as PyTorch does. */
INLINE vec max_(vec a, vec b) {
#if VEC == 16 && defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif VEC == 8 && defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif VEC == 4 && defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#elif VEC == 4 && defined(__aarch64__)
    return (vec)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#elif VEC == 4 && defined(__wasm_simd128__)
    return (vec)wasm_f32x4_pmax((v128_t)b, (v128_t)a);
#elif VEC == 1
    return a > b ? a : b;
#else
    ivec larger = (ivec)(a > b);
    return (vec)((larger & (ivec)a) | (~larger & (ivec)b));
#endif
}

/* The smaller of two; if b is NaN, NaN. */
INLINE vec min_(vec a, vec b) {
#if VEC == 16 && defined(__AVX512F__)
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif VEC == 8 && defined(__AVX__)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif VEC == 4 && defined(__SSE2__)
    return (vec)_mm_min_ps((__m128)a, (__m128)b);
#elif VEC == 4 && defined(__aarch64__)
    return (vec)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return -max_(-a, -b);
#endif
}

/* the first `count` elements of one vector, the remaining ones of another */
INLINE vec first_of(vec value, const int count, vec rest) {
#if VEC == 1
    return count > 0 ? value : rest;
#else
    ivec keep;
    UNROLL for (int i = 0; i < VEC; i++) keep[i] = i < count ? -1 : 0;
    return (vec)((keep & (ivec)value) | (~keep & (ivec)rest));
#endif
}

INLINE float sum_of(vec value) {
#if VEC == 1
    return value;
#else
    float sum = 0.0f;
    UNROLL for (int i = 0; i < VEC; i++) sum += value[i];
    return sum;
#endif
}

/* even and odd elements of two consecutive vectors */
#if VEC > 1
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#endif

INLINE vec even(vec a, vec b) {
#if VEC == 1
    (void)b;
    return a;
#elif VEC == 4
    return SHUFFLE(a, b, 0, 2, 4, 6);
#elif VEC == 8
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#endif
}

INLINE vec odd(vec a, vec b) {
#if VEC == 1
    (void)a;
    return b;
#elif VEC == 4
    return SHUFFLE(a, b, 1, 3, 5, 7);
#elif VEC == 8
    return SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#endif
}
