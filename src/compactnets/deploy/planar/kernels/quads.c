/* Quads: four bytes, of four channels, in each 32-bit word of a plane; int8 networks.
 *
 * A plane of words has the layout of a plane of floats, and is moved as one. Sums of products are exact 32-bit integers,
 * and values are rounded by the same operations on floats everywhere, so every target computes the same bits. */
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "int8 networks need floats that are computed in 32 bits: compile with -msse2 -mfpmath=sse"
#endif

#if VEC == 1
typedef int32_t word __attribute__((may_alias));
typedef uint32_t uvec;
#else
typedef int32_t word __attribute__((vector_size(4 * VEC), aligned(4), may_alias)); /* at the address of any word */
typedef uint32_t uvec __attribute__((vector_size(4 * VEC)));
typedef int16_t hvec __attribute__((vector_size(4 * VEC)));
typedef uint8_t bvec __attribute__((vector_size(4 * VEC)));
#endif
typedef int32_t number __attribute__((may_alias)); /* one word */

INLINE ivec load_words(const float *from) { return *(const word *)from; }
INLINE void store_words(float *to, ivec value) { *(word *)to = value; }
#if VEC == 1
INLINE ivec splat_word(const int32_t value) { return value; }
INLINE vec to_floats(ivec value) { return (float)value; }
#else
INLINE ivec splat_word(const int32_t value) { return (ivec){0} + value; }
INLINE vec to_floats(ivec value) { return __builtin_convertvector(value, vec); }
#endif

/* A word as a float of the same bits, for functions that move floats. */
INLINE float as_float(const int32_t value) {
    union { int32_t bits; float value; } both;
    both.bits = value;
    return both.value;
}

/* ---- sums of four products ----
 *
 * prepare(x): bytes of activations, unsigned; prepare_weights(w): signed. dot4: sum + the four products of each word.
 * dot1: sum + the product in byte k, where the other three bytes of the weights are 0. */
#if VEC == 16 && defined(__AVX512VNNI__)
#define DOT(sum, x, w) (ivec)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(w))
#elif VEC == 8 && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DOT(sum, x, w) (ivec)_mm256_dpbusd_epi32((__m256i)(sum), (__m256i)(x), (__m256i)(w))
#elif VEC == 8 && defined(__AVXVNNI__)
#define DOT(sum, x, w) (ivec)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(x), (__m256i)(w))
#elif VEC == 4 && defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DOT(sum, x, w) (ivec)_mm_dpbusd_epi32((__m128i)(sum), (__m128i)(x), (__m128i)(w))
#elif VEC == 4 && defined(__AVXVNNI__)
#define DOT(sum, x, w) (ivec)_mm_dpbusd_avx_epi32((__m128i)(sum), (__m128i)(x), (__m128i)(w))
#elif VEC == 4 && defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
#define DOT(sum, x, w) (ivec)vusdotq_s32((int32x4_t)(sum), (uint8x16_t)(x), (int8x16_t)(w))
#elif VEC == 4 && defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define SIGNED 1 /* x - 128 takes the place of x: sums start with 128 times the sum of the weights, see start_sums */
#define DOT(sum, x, w) (ivec)vdotq_s32((int32x4_t)(sum), (int8x16_t)(x), (int8x16_t)(w))
#endif
#if VEC == 16 && defined(__AVX512BW__)
#define MADD(a, b) (ivec)_mm512_madd_epi16((__m512i)(a), (__m512i)(b))
#elif VEC == 8 && defined(__AVX2__)
#define MADD(a, b) (ivec)_mm256_madd_epi16((__m256i)(a), (__m256i)(b))
#elif VEC == 4 && defined(__SSE2__)
#define MADD(a, b) (ivec)_mm_madd_epi16((__m128i)(a), (__m128i)(b))
#elif VEC == 4 && defined(__wasm_simd128__)
#define MADD(a, b) (ivec)wasm_i32x4_dot_i16x8((v128_t)(a), (v128_t)(b))
#endif

#if !defined(SIGNED)
#define SIGNED 0
#endif

#if defined(DOT)
typedef ivec quad;
typedef ivec quad_weights;
INLINE quad prepare(ivec x) { return SIGNED ? x ^ splat_word((int32_t)0x80808080u) : x; }
INLINE quad_weights prepare_weights(ivec w) { return w; }
INLINE ivec dot4(ivec sum, quad x, quad_weights w) { return DOT(sum, x, w); }
INLINE ivec dot1(ivec sum, quad x, quad_weights w, const int k) { (void)k; return DOT(sum, x, w); }
#elif defined(MADD) /* bytes 0 and 2, and 1 and 3, as 16-bit numbers */
typedef struct { ivec even, odd; } quad;
typedef quad quad_weights;
INLINE quad prepare(ivec x) {
    const quad both = {x & 0x00ff00ff, (ivec)((uvec)x >> 8) & 0x00ff00ff};
    return both;
}
INLINE quad_weights prepare_weights(ivec w) {
    const quad both = {(ivec)((hvec)((uvec)w << 8) >> 8), (ivec)((hvec)w >> 8)};
    return both;
}
INLINE ivec dot4(ivec sum, quad x, quad_weights w) { return sum + MADD(x.even, w.even) + MADD(x.odd, w.odd); }
INLINE ivec dot1(ivec sum, quad x, quad_weights w, const int k) {
    return sum + (k % 2 ? MADD(x.odd, w.odd) : MADD(x.even, w.even));
}
#else
typedef struct { ivec byte[4]; } quad;
typedef quad quad_weights;
INLINE quad prepare(ivec x) {
    quad all;
    UNROLL for (int k = 0; k < 4; k++) all.byte[k] = (ivec)((uvec)x >> (8 * k)) & 255;
    return all;
}
INLINE quad_weights prepare_weights(ivec w) {
    quad all;
    UNROLL for (int k = 0; k < 4; k++) all.byte[k] = (ivec)((uvec)w << (24 - 8 * k)) >> 24;
    return all;
}
INLINE ivec dot4(ivec sum, quad x, quad_weights w) {
    UNROLL for (int k = 0; k < 4; k++) sum += x.byte[k] * w.byte[k];
    return sum;
}
INLINE ivec dot1(ivec sum, quad x, quad_weights w, const int k) { return sum + x.byte[k] * w.byte[k]; }
#endif

INLINE quad load_quad(const float *from) { return prepare(load_words(from)); }
INLINE quad_weights splat_weights(const float *from) { return prepare_weights(splat_word(*(const number *)from)); }

/* What the sums of `rows` rows start with. weights: one word of each row for each of `depth` inputs. */
INLINE void start_sums(int32_t *start, const float *biases, const float *weights, const int rows, const int depth) {
    const number *bias = (const number *)biases;
    for (int m = 0; m < rows; m++) start[m] = bias[m];
    if (SIGNED) {
        const int8_t *bytes = (const int8_t *)weights;
        for (int c = 0; c < depth; c++)
            for (int m = 0; m < rows; m++)
                for (int k = 0; k < 4; k++) start[m] += 128 * bytes[4 * (c * rows + m) + k];
    }
}

/* ---- from values to bytes ---- */

/* What the values of a layer become: bytes from `low` to `high`, `zero` standing for 0. kind: PLAIN if that is 0 to 255
 * and 0; WIDE if values may be too large for 32-bit integers. Other arithmetic for them gives the same bytes. */
typedef struct { int32_t zero, low, high; } limits;
enum { SHIFTED = 0, PLAIN = 1, WIDE = 2 };

INLINE limits limits_at(const int32_t *ends) {
    limits found;
    found.zero = ends[0], found.low = ends[1], found.high = ends[2];
    return found;
}

/* Limit four integers of 32 bits: byte k of each word is of whole[k], or of value[k] rounded, halves to even. */
#if (VEC == 16 && defined(__AVX512BW__)) || (VEC == 8 && defined(__AVX2__)) || (VEC == 4 && defined(__SSSE3__))
#define PACKS 1 /* instructions that narrow integers with saturation */
#if VEC == 16
#define SIMD(name) _mm512_##name
#define EACH_128(value) _mm512_broadcast_i32x4(value)
typedef __m512i ints;
typedef __m512 floats;
#elif VEC == 8
#define SIMD(name) _mm256_##name
#define EACH_128(value) _mm256_broadcastsi128_si256(value)
typedef __m256i ints;
typedef __m256 floats;
#else
#define SIMD(name) _mm_##name
#define EACH_128(value) (value)
typedef __m128i ints;
typedef __m128 floats;
#endif

INLINE ivec pack_bytes(const ivec *whole, const limits ends, const int kind) {
    const ints order = EACH_128(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    ints first = SIMD(packs_epi32)((ints)whole[0], (ints)whole[1]);
    ints second = SIMD(packs_epi32)((ints)whole[2], (ints)whole[3]);
    if (kind != PLAIN) {
        const ints zero = SIMD(set1_epi16)((short)ends.zero);
        first = SIMD(adds_epi16)(first, zero), second = SIMD(adds_epi16)(second, zero);
    }
    ints bytes = SIMD(shuffle_epi8)(SIMD(packus_epi16)(first, second), order);
    if (kind != PLAIN)
        bytes = SIMD(min_epu8)(SIMD(max_epu8)(bytes, SIMD(set1_epi8)((char)ends.low)), SIMD(set1_epi8)((char)ends.high));
    return (ivec)bytes;
}

INLINE ivec to_bytes(vec *value, const limits ends, const int kind) {
    ivec whole[4];
    UNROLL for (int k = 0; k < 4; k++) {
        if (kind == WIDE) value[k] = min_(splat(512.0f), max_(value[k], splat(-512.0f)));
        whole[k] = (ivec)SIMD(cvtps_epi32)((floats)value[k]);
    }
    return pack_bytes(whole, ends, kind);
}
#else
INLINE ivec to_bytes(vec *value, const limits ends, const int kind) {
    const int plain = kind == PLAIN, zero = plain ? 0 : ends.zero;
    const vec low = splat((float)((plain ? 0 : ends.low) - zero)), high = splat((float)((plain ? 255 : ends.high) - zero));
    const vec large = splat(12582912.0f); /* 1.5 * 2^23, which leaves the integer in the low bits */
    uvec all = (uvec)splat_word((int32_t)((uint32_t)zero * 0x01010101u - 0x8b400000u)); /* less the bits of `large` */
    UNROLL for (int k = 0; k < 4; k++) {
        const vec sum = min_(max_(value[k], low), high) + large;
#if VEC == 1
        union { float value; uint32_t bits; } both;
        both.value = sum;
        all += both.bits << (8 * k);
#else
        all += (uvec)sum << (8 * k);
#endif
    }
    return (ivec)all;
}

INLINE ivec pack_bytes(const ivec *whole, const limits ends, const int kind) {
    vec value[4];
    UNROLL for (int k = 0; k < 4; k++) value[k] = to_floats(whole[k]);
    return to_bytes(value, ends, kind);
}
#endif

/* The same for four sums, each times its factor. */
INLINE ivec sums_to_bytes(const ivec *sum, const float *factors, const limits ends, const int kind) {
    vec value[4];
    UNROLL for (int k = 0; k < 4; k++) value[k] = to_floats(sum[k]) * splat(factors[k]);
    return to_bytes(value, ends, kind);
}

INLINE ivec byte_of(ivec words, const int k) { return (ivec)((uvec)words >> (8 * k)) & 255; }

/* bytes 0 and 2, or 1 and 3, as 16-bit numbers */
INLINE ivec byte_pairs(ivec words, const int odd) { return (ivec)((uvec)words >> (8 * odd)) & 0x00ff00ff; }

INLINE int32_t total_of(ivec words) {
#if VEC == 1
    return words;
#else
    int32_t total = 0;
    UNROLL for (int i = 0; i < VEC; i++) total += words[i];
    return total;
#endif
}

/* A table of 256 bytes in registers, and the bytes that it has for others. */
#if VEC == 16 && defined(__AVX512VBMI__)
#define HAS_LOOKUP 1
typedef struct { ints part[4]; } lookup;
INLINE lookup read_lookup(const uint8_t *bytes) {
    lookup all;
    UNROLL for (int i = 0; i < 4; i++) all.part[i] = _mm512_loadu_si512(bytes + 64 * i);
    return all;
}
INLINE ivec look_up(const lookup all, ivec words) {
    const ints x = (ints)words;
    const ints low = _mm512_permutex2var_epi8(all.part[0], x, all.part[1]);
    const ints high = _mm512_permutex2var_epi8(all.part[2], x, all.part[3]);
    return (ivec)_mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
}
#elif defined(PACKS) /* sixteen tables of sixteen bytes; an index that is not in one gives 0 */
#define HAS_LOOKUP 1
typedef struct { const uint8_t *bytes; } lookup;
INLINE lookup read_lookup(const uint8_t *bytes) {
    const lookup all = {bytes};
    return all;
}
INLINE ivec look_up(const lookup all, ivec words) {
    const ints x = (ints)words, limit = SIMD(set1_epi8)(0x70);
    ivec found = splat_word(0);
    UNROLL for (int i = 0; i < 16; i++) {
        const ivec nearer = (ivec)x ^ splat_word((int32_t)(0x10101010u * (uint32_t)i)); /* 0 to 15 if it is in this one */
        const ints part = EACH_128(_mm_loadu_si128((const __m128i *)(all.bytes + 16 * i)));
        found |= (ivec)SIMD(shuffle_epi8)(part, SIMD(adds_epu8)((ints)nearer, limit));
    }
    return found;
}
#elif VEC == 4 && defined(__aarch64__)
#define HAS_LOOKUP 1
typedef struct { uint8x16x4_t part[4]; } lookup;
INLINE lookup read_lookup(const uint8_t *bytes) {
    lookup all;
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++) all.part[i].val[j] = vld1q_u8(bytes + 64 * i + 16 * j);
    return all;
}
INLINE ivec look_up(const lookup all, ivec words) {
    const uint8x16_t x = (uint8x16_t)words;
    uint8x16_t found = vqtbl4q_u8(all.part[0], x);
    UNROLL for (int i = 1; i < 4; i++)
        found = vqtbx4q_u8(found, all.part[i], veorq_u8(x, vdupq_n_u8((uint8_t)(64 * i))));
    return (ivec)found;
}
#endif

/* the larger of every two bytes */
INLINE ivec max_bytes(ivec a, ivec b) {
#if VEC == 16 && defined(__AVX512BW__)
    return (ivec)_mm512_max_epu8((__m512i)a, (__m512i)b);
#elif VEC == 8 && defined(__AVX2__)
    return (ivec)_mm256_max_epu8((__m256i)a, (__m256i)b);
#elif VEC == 4 && defined(__SSE2__)
    return (ivec)_mm_max_epu8((__m128i)a, (__m128i)b);
#elif VEC == 4 && defined(__aarch64__)
    return (ivec)vmaxq_u8((uint8x16_t)a, (uint8x16_t)b);
#elif VEC == 4 && defined(__wasm_simd128__)
    return (ivec)wasm_u8x16_max((v128_t)a, (v128_t)b);
#elif VEC == 1
    uint32_t all = 0;
    for (int k = 0; k < 32; k += 8) {
        const uint32_t one = (uint32_t)a >> k & 255, other = (uint32_t)b >> k & 255;
        all |= (one > other ? one : other) << k;
    }
    return (ivec)all;
#else
    const bvec larger = (bvec)((bvec)a > (bvec)b);
    return (ivec)((larger & (bvec)a) | (~larger & (bvec)b));
#endif
}
