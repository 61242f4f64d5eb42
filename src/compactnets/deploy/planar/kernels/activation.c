/* Activations, and weights of 16 bits: what only networks in float need. */

/* VEC 16-bit floats. Infinity and NaN are not handled: weights are finite. */
INLINE vec load_half(const uint16_t *from) {
#if VEC == 16 && defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif VEC == 8 && defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif VEC == 4 && defined(__F16C__)
    return (vec)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)from));
#elif VEC == 4 && defined(__aarch64__)
    return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#elif VEC == 1
    union { uint32_t bits; float value; } half;
    half.bits = (uint32_t)(*from & 0x7fff) << 13;
    half.value *= 5.192296858534828e33f; /* 2^112: rebias the exponent */
    half.bits |= (uint32_t)(*from & 0x8000) << 16;
    return half.value;
#else
    ivec bits;
    UNROLL for (int i = 0; i < VEC; i++) bits[i] = from[i];
    const vec value = (vec)((bits & 0x7fff) << 13) * splat(5.192296858534828e33f);
    return (vec)((ivec)value | ((bits & 0x8000) << 16));
#endif
}

/* e^x to 1 or 2 units in the last place. x = n log(2) + t: e^t is a polynomial, and 2^n is built from the bits of n,
 * which adding a large number leaves in the low bits of the sum. */
INLINE vec exp_(vec x) {
    const vec large = splat(12583039.0f); /* 1.5 * 2^23 + 127 */
    x = min_(splat(88.0f), max_(splat(-87.0f), x)); /* NaN stays NaN */
    vec n = fma_(x, splat(1.44269504f), large);
#if VEC == 1
    union { float value; int32_t bits; } scaled;
    scaled.value = n;
    scaled.bits = (int32_t)((uint32_t)scaled.bits << 23);
    const vec power = scaled.value;
#else
    const vec power = (vec)((ivec)n << 23);
#endif
    n = n - large;
    vec t = fma_(n, splat(-0.693145752f), x);
    t = fma_(n, splat(-1.42860677e-6f), t);
    vec p = fma_(splat(8.28929059e-3f), t, splat(4.18978221e-2f));
    p = fma_(p, t, splat(1.66676521e-1f));
    p = fma_(p, t, splat(4.99991506e-1f));
    p = fma_(p, t, splat(9.99999702e-1f));
    return fma_(p, t * power, power);
}

/* activations */
enum { NONE = 0, RELU = 1, RELU6 = 2, SIGMOID = 3, HARDSIGMOID = 4, HARDSWISH = 5, SILU = 6 };

INLINE vec activate(vec x, const int activation) {
    const vec zero = splat(0.0f), one = splat(1.0f), six = splat(6.0f);
    switch (activation) {
    case RELU: return max_(zero, x);
    case RELU6: return min_(six, max_(zero, x));
    case SIGMOID: return one / (one + exp_(-x));
    case HARDSIGMOID: return min_(six, max_(zero, x + splat(3.0f))) * splat(1.0f / 6.0f);
    case HARDSWISH: return x * min_(six, max_(zero, x + splat(3.0f))) * splat(1.0f / 6.0f);
    case SILU: return x / (one + exp_(-x));
    default: return x;
    }
}
