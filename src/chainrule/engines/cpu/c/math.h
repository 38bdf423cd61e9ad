/* Functions of one element, as generated code calls them: cr_NAME_f32, cr_NAME_f64, and whole numbers.
 *
 * Those on float32 are free of branches, so that compilers vectorise the loops around them. They are within 3 units in
 * the last place of the exact value for every argument, and treat NaN, infinities, denormal numbers and the sign of
 * zero as IEEE 754 and C say. Polynomials are minimax fits of the remainder behind the leading terms (Lawson's
 * iteration on Chebyshev points); with those terms split off, their rounding does not matter. Those on float64 are the
 * C library's, which are exact to about one unit.
 */
#include <float.h>

#define CR_INLINE static inline __attribute__((always_inline, unused))

CR_INLINE uint32_t cr_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

CR_INLINE float cr_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

CR_INLINE float cr_power_of_two(int32_t k) { return cr_from_bits((uint32_t)(k + 127) << 23); } /* -126 <= k <= 127 */

/* --- exponentials: x = k ln 2 + r with |r| <= ln(2)/2, so exp(x) = 2^k exp(r) --- */

#define CR_ROUNDER 0x1.8p23f /* adding it leaves no bits for a fraction: the sum is rounded to a whole number */

typedef struct {
    int32_t k;
    float r;
} cr_reduced;

CR_INLINE cr_reduced cr_reduce_exponent(float x) {
    float shifted = x * 0x1.715476p+0f + CR_ROUNDER, whole = shifted - CR_ROUNDER;
    float r = x - whole * 0x1.62e4p-1f; /* ln 2 to 15 bits: the product is exact */
    return (cr_reduced){(int32_t)(cr_bits(shifted) - cr_bits(CR_ROUNDER)), r - whole * 0x1.7f7d1cp-20f};
}

CR_INLINE float cr_expm1_reduced(float r) { /* exp(r) - 1, to what exp(r) can keep of it */
    float p = 0x1.6a234ep-10f;
    p = p * r + 0x1.123a6cp-7f;
    p = p * r + 0x1.5558f4p-5f;
    p = p * r + 0x1.555490p-3f;
    p = p * r + 0x1.fffffcp-2f;
    return p * (r * r) + r;
}

/* The rounder may carry a bias: shifted left, the last bits of the sum are then those of a power of two. */
CR_INLINE float cr_exp_inside(float x) { /* -105 <= x <= 89, or NaN */
    const float rounder = CR_ROUNDER + 126.0f; /* half of 2^k, since 2^128 is no float */
    float shifted = x * 0x1.715476p+0f + rounder, whole = shifted - rounder;
    float p = cr_expm1_reduced((x - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f);
    int low = x < -86.0f; /* 2^k may be no normal float: 2^64 times as much is */
    float scale = cr_from_bits((cr_bits(shifted) + (low ? 64u : 0u)) << 23);
    return (p * scale + scale) * (low ? 0x1p-63f : 2.0f);
}

/* Bits of floats compare like whole numbers, with one instruction for each bound, the first of which is negative and the second is
 * not. NaN becomes one of them. */
CR_INLINE float cr_clamped(float x, float least, float most) {
    uint32_t bits = cr_bits(x), low = cr_bits(least);
    int32_t inside = (int32_t)(bits < low ? bits : low), high = (int32_t)cr_bits(most);
    return cr_from_bits((uint32_t)(inside < high ? inside : high));
}

CR_INLINE float cr_exp_f32(float x) { /* infinite and 0 out there */
    float e = cr_exp_inside(cr_clamped(x, -105.0f, 89.0f));
    return x != x ? x : e;
}

CR_INLINE float cr_expm1_f32(float x) {
    float inside = x > 89.0f ? 89.0f : x < -20.0f ? -20.0f : x;
    cr_reduced at = cr_reduce_exponent(inside);
    float r = at.r, p = 0x1.a19ee6p-13f;
    p = p * r + 0x1.6d753ep-10f;
    p = p * r + 0x1.111092p-7f;
    p = p * r + 0x1.5554aep-5f;
    p = p * r + 0x1.555556p-3f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    float half = cr_power_of_two(at.k - 1); /* 2^k exp(r) - 1 = 2 (2^(k-1) (exp(r) - 1) + 2^(k-1) - 1/2) */
    float result = at.k == 0 ? p : 2.0f * (half * p + (half - 0.5f));
    return copysignf(result, x);
}

/* 1 / (1 + exp(-x)) with both of the sum 2^-64 times as large: exp(-x) overflows for no x for which the result is more than 0. */
CR_INLINE float cr_logistic_f32(float x) {
    const float one = 0x1p-64f, rounder = CR_ROUNDER + 63.0f;
    float inside = cr_clamped(x, -105.0f, 40.0f);
    float shifted = inside * -0x1.715476p+0f + rounder, whole = shifted - rounder;
    float p = cr_expm1_reduced((-inside - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f);
    float scale = cr_from_bits(cr_bits(shifted) << 23), result = one / (one + (p * scale + scale));
    return x != x ? x : result;
}

CR_INLINE float cr_tanh_f32(float x) { /* -m / (2 + m), where m = exp(-2|x|) - 1 keeps all digits near 0 */
    const float rounder = CR_ROUNDER + 127.0f;
    float size = fabsf(x), u = size > 10.0f ? -20.0f : -2.0f * size;
    float shifted = u * 0x1.715476p+0f + rounder, whole = shifted - rounder;
    float p = cr_expm1_reduced((u - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f);
    float scale = cr_from_bits(cr_bits(shifted) << 23), m = p * scale + (scale - 1.0f);
    return copysignf(m / (2.0f + m), x);
}

/* --- the same, for code that evaluates one element and waits for it: short chains of operations, and branches --- */

#if defined(__FP_FAST_FMAF) || defined(__FMA__)
CR_INLINE float cr_without_ln2(float x, float whole) { /* x - whole ln 2: the product is exact inside the sum */
    return __builtin_fmaf(whole, -0x1.62e430p-1f, x);
}
#define CR_REST 0x1.05c610p-29f /* what is left of -ln 2: small enough to be added where nothing waits for it */
#else
CR_INLINE float cr_without_ln2(float x, float whole) { return (x - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f; }
#define CR_REST 0.0f
#endif

CR_INLINE float cr_exp_of_normal(float x) { /* -87 <= x <= 88 */
    float shifted = x * 0x1.715476p+0f + CR_ROUNDER, whole = shifted - CR_ROUNDER;
    float scale = cr_power_of_two((int32_t)(cr_bits(shifted) - cr_bits(CR_ROUNDER))), r = cr_without_ln2(x, whole);
    float z = r * r, high = 0x1.123a6cp-7f * r + 0x1.5558f4p-5f, low = 0x1.555490p-3f * r + 0x1.fffffcp-2f;
    float q = (0x1.6a234ep-10f * z + high) * z + low;
    return q * (z * scale) + (1.0f + (r + whole * CR_REST)) * scale;
}

CR_INLINE float cr_alone_exp_f32(float x) {
    if (__builtin_expect(!(fabsf(x) <= 87.0f), 0)) return cr_exp_f32(x);
    return cr_exp_of_normal(x);
}

/* A polynomial for each half: no exponential and no division wait for each other. */
CR_INLINE float cr_alone_logistic_f32(float x) {
    if (__builtin_expect(!(x >= -32.0f && x <= 17.0f), 0)) return cr_logistic_f32(x);
    float shifted = 2.0f * x + CR_ROUNDER, u = x - 0.5f * (shifted - CR_ROUNDER), z = u * u;
    const float *c = cr_logistic_pieces[cr_bits(shifted) - (cr_bits(CR_ROUNDER) + CR_FIRST_PIECE)];
    float low = c[1] * u + c[0], middle = c[3] * u + c[2], high = c[5] * u + c[4];
    return (high * z + middle) * z + low;
}

CR_INLINE float cr_tanh_near_zero(float size) {
    float z = size * size, p = -0x1.96d7b2p-8f;
    p = p * z + 0x1.58843cp-6f;
    p = p * z - 0x1.b913aep-5f;
    p = p * z + 0x1.110cb2p-3f;
    p = p * z - 0x1.55554ap-2f;
    return size + size * (z * p);
}

CR_INLINE float cr_alone_tanh_f32(float x) {
    float size = fabsf(x);
    if (__builtin_expect(!(size <= 40.0f), 0)) return cr_tanh_f32(x);
    float far = 1.0f - 2.0f / (cr_exp_of_normal(2.0f * size) + 1.0f);
    return copysignf(size < 0.55f ? cr_tanh_near_zero(size) : far, x);
}

/* --- the error function: x - x p(x^2) near 0; else 1 - q(|x| - 5/2)^4 with q of the same degree, so that one evaluation with the
 * coefficients of either does for both. p approximates 1 - erf(x)/x up to 11/8, q the fourth root of 1 - erf up to 4. --- */

CR_INLINE float cr_erf_f32(float x) {
    float size = fabsf(x), most = size > 4.0f ? 4.0f : size;
    int near = size < 1.375f;
    float t = near ? x * x : most - 2.5f, p = near ? 0x1.bdc934p-18f : -0x1.9f4790p-13f;
    p = p * t + (near ? -0x1.9e2034p-14f : 0x1.172398p-15f);
    p = p * t + (near ? 0x1.af468cp-11f : 0x1.606dc2p-9f);
    p = p * t + (near ? -0x1.549476p-8f : -0x1.a91aeap-8f);
    p = p * t + (near ? 0x1.b7f87ap-6f : -0x1.924d88p-7f);
    p = p * t + (near ? -0x1.ce2c36p-4f : 0x1.7f94c0p-4f);
    p = p * t + (near ? 0x1.812738p-2f : -0x1.853f5ep-3f);
    p = p * t + (near ? -0x1.06eba8p-3f : 0x1.22e1b2p-3f);
    float square = p * p;
    return copysignf((near ? size : 1.0f) - (near ? size : square) * (near ? p : square), x);
}

/* --- logarithms: x = 2^k (1 + f) with 1 + f from sqrt(1/2) to sqrt(2) --- */

#define CR_SQRT_HALF 0x3f3504f3u /* the bits of sqrt(1/2) */

CR_INLINE float cr_log_reduced(float f, float k) {
    float z = f * f, p = 0x1.1b434cp-4f;
    p = p * f - 0x1.e315eap-4f;
    p = p * f + 0x1.e66720p-4f;
    p = p * f - 0x1.fb3d92p-4f;
    p = p * f + 0x1.2330fcp-3f;
    p = p * f - 0x1.5562fcp-3f;
    p = p * f + 0x1.99a55cp-3f;
    p = p * f - 0x1.ffffeep-3f;
    p = p * f + 0x1.555546p-2f;
    float small = f * (z * p) + k * 0x1.7f7d1cp-20f;
    return k * 0x1.62e4p-1f + (f + (small - 0.5f * z));
}

CR_INLINE float cr_log_f32(float x) {
    float normal = x < FLT_MIN ? x * 0x1p23f : x;
    int32_t k = (int32_t)(cr_bits(normal) - CR_SQRT_HALF) >> 23;
    float f = cr_from_bits(cr_bits(normal) - ((uint32_t)k << 23)) - 1.0f;
    float result = cr_log_reduced(f, (float)(x < FLT_MIN ? k - 23 : k));
    float outside = x > 0.0f ? INFINITY : x == 0.0f ? -INFINITY : NAN;
    return x > 0.0f && x <= FLT_MAX ? result : outside;
}

CR_INLINE float cr_log1p_f32(float x) {
    int32_t k = (int32_t)(cr_bits(1.0f + x) - CR_SQRT_HALF) >> 23, half = k >> 1;
    float first = cr_power_of_two(-half), second = cr_power_of_two(half - k);
    float f = x * first * second + (first * second - 1.0f); /* of 1 + x itself the last digits are lost */
    float result = copysignf(cr_log_reduced(f, (float)k), x);
    float outside = x > 0.0f ? INFINITY : x == -1.0f ? -INFINITY : NAN;
    return x > -1.0f && x <= FLT_MAX ? result : outside;
}

/* --- sine and cosine: x = q quarter turns + r with |r| <= pi/4, for angles of any size --- */

typedef struct {
    int32_t quarter;
    float r;
} cr_angle;

CR_INLINE cr_angle cr_reduce_angle(float size) {
    uint32_t bits = cr_bits(size);
    int32_t row = (int32_t)(bits >> 23) - 150 + 24;
    row = row < 0 ? 0 : row > 128 ? 128 : row;
    double mantissa = (double)(int32_t)((bits & 0x7fffffu) | 0x800000u);
    double turns = mantissa * cr_quarter_turns_high[row], more = mantissa * cr_quarter_turns_middle[row];
    double shifted = (turns + more) + 0x1.8p52;
    double rest = (turns - (shifted - 0x1.8p52)) + more + mantissa * cr_quarter_turns_low[row];
    uint64_t whole;
    memcpy(&whole, &shifted, sizeof whole);
    int near = size < 0.5f; /* also where the exponent is below those of the table */
    return (cr_angle){near ? 0 : (int32_t)(uint32_t)whole, near ? size : (float)(rest * 0x1.921fb54442d18p+0)};
}

CR_INLINE float cr_sine_reduced(float r) {
    float z = r * r, p = -0x1.994e68p-13f;
    p = p * z + 0x1.110760p-7f;
    p = p * z - 0x1.555546p-3f;
    return r + r * (z * p);
}

CR_INLINE float cr_cosine_reduced(float r) {
    float z = r * r, p = 0x1.9a0260p-16f;
    p = p * z - 0x1.6c0c8cp-10f;
    p = p * z + 0x1.55554ap-5f;
    return 1.0f + (z * (z * p) - 0.5f * z);
}

CR_INLINE float cr_sin_f32(float x) {
    cr_angle at = cr_reduce_angle(fabsf(x));
    float value = at.quarter & 1 ? cr_cosine_reduced(at.r) : cr_sine_reduced(at.r);
    float result = cr_from_bits(cr_bits(value) ^ (uint32_t)(at.quarter & 2) << 30 ^ (cr_bits(x) & 0x80000000u));
    return fabsf(x) <= FLT_MAX ? result : NAN;
}

CR_INLINE float cr_cos_f32(float x) {
    cr_angle at = cr_reduce_angle(fabsf(x));
    float value = at.quarter & 1 ? cr_sine_reduced(at.r) : cr_cosine_reduced(at.r);
    float result = cr_from_bits(cr_bits(value) ^ (uint32_t)((at.quarter + 1) & 2) << 30);
    return fabsf(x) <= FLT_MAX ? result : NAN;
}

/* --- powers: 2^(y log2|x|) in float64, which leaves room for the 8 digits that the exponent takes --- */

CR_INLINE double cr_log2_of_float(float size) {
    float normal = size < FLT_MIN ? size * 0x1p23f : size;
    int32_t k = (int32_t)(cr_bits(normal) - CR_SQRT_HALF) >> 23;
    double m = cr_from_bits(cr_bits(normal) - ((uint32_t)k << 23));
    double s = (m - 1.0) / (m + 1.0), z = s * s, p = 0x1.21b68ac707c0cp-2; /* log m = 2 artanh s */
    p = p * z + 0x1.4794f33a5249cp-2;
    p = p * z + 0x1.a61a312822b8bp-2;
    p = p * z + 0x1.2776c2904b8d9p-1;
    p = p * z + 0x1.ec709dc53ef9bp-1;
    p = p * z + 0x1.71547652b824bp+1;
    return s * p + (double)(size < FLT_MIN ? k - 23 : k);
}

CR_INLINE double cr_exp2_wide(double x) { /* of numbers for which 2^x is a normal float64 */
    double shifted = x + 0x1.8p52, r = x - (shifted - 0x1.8p52), p = 0x1.41d32d42d0e8ep-13;
    p = p * r + 0x1.5f456a7aa9bdap-10;
    p = p * r + 0x1.3b2dbbca23458p-7;
    p = p * r + 0x1.c6aed4b978e26p-5;
    p = p * r + 0x1.ebfbdadca33e9p-3;
    p = p * r + 0x1.62e430c7e8fcfp-1;
    p = p * r + 0x1.0000000261559p+0;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

CR_INLINE float cr_pow_f32(float x, float y) {
    float size = fabsf(x), height = fabsf(y);
    double exponent = (double)y * cr_log2_of_float(size);
    exponent = exponent > 200.0 ? 200.0 : exponent < -200.0 ? -200.0 : exponent;
    float result = (float)cr_exp2_wide(exponent);
    float grown = (size > 1.0f) == (y > 0.0f) ? INFINITY : 0.0f;
    result = (size == 0.0f) | (size > FLT_MAX) | (height > FLT_MAX) ? grown : result;
    result = (x != x) | (y != y) ? NAN : result;
    /* Whole numbers: all beyond 2^24; odd ones: those whose half is not whole. */
    uint32_t bits = cr_bits(height), largest = cr_bits(0x1p24f);
    float held = cr_from_bits(bits < largest ? bits : largest), half = held * 0.5f;
    int is_whole = (float)(int32_t)held == held, is_odd = is_whole & ((float)(int32_t)half != half);
    result = is_odd & (int)(cr_bits(x) >> 31) ? -result : result;
    result = (x < 0.0f) & (size <= FLT_MAX) & !is_whole ? NAN : result;
    result = (size == 1.0f) & (height > FLT_MAX) ? 1.0f : result;
    return (x == 1.0f) | (y == 0.0f) ? 1.0f : result;
}

/* --- float64 --- */

CR_INLINE double cr_exp_f64(double x) { return exp(x); }
CR_INLINE double cr_expm1_f64(double x) { return expm1(x); }
CR_INLINE double cr_log_f64(double x) { return log(x); }
CR_INLINE double cr_log1p_f64(double x) { return log1p(x); }
CR_INLINE double cr_sin_f64(double x) { return sin(x); }
CR_INLINE double cr_cos_f64(double x) { return cos(x); }
CR_INLINE double cr_tanh_f64(double x) { return tanh(x); }
CR_INLINE double cr_erf_f64(double x) { return erf(x); }
CR_INLINE double cr_pow_f64(double x, double y) { return pow(x, y); }
CR_INLINE double cr_logistic_f64(double x) {
    double e = exp(-fabs(x));
    return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}

/* --- bfloat16: the upper half of a float's bits, rounded to nearest, ties to even --- */

CR_INLINE float cr_from_bf16(uint16_t bits) { return cr_from_bits((uint32_t)bits << 16); }

CR_INLINE uint16_t cr_bf16_f32(float x) {
    uint32_t bits = cr_bits(x), nearest = bits + 0x7fff + (bits >> 16 & 1);
    uint32_t nan = (bits & 0x80000000u) | 0x7fc00000u;
    return (uint16_t)((x != x ? nan : nearest) >> 16);
}

/* By way of a float whose last bit is set where it is inexact: rounding that is rounding the number itself. */
CR_INLINE uint16_t cr_bf16_f64(double x) {
    float nearest = (float)x;
    uint32_t bits = cr_bits(nearest), inexact = (x == x) & ((double)nearest != x);
    bits -= inexact & (fabs((double)nearest) > fabs(x));
    return cr_bf16_f32(cr_from_bits(bits | inexact));
}

/* A double holds whole numbers of 53 bits: larger ones get a last bit in place of those it would drop. */
CR_INLINE uint16_t cr_bf16_i64(int64_t x) {
    int64_t high = x >> 53, kept = x & ~(int64_t)2047, odd = (int64_t)((x & 2047) != 0) << 11;
    return cr_bf16_f64((double)(high == 0 || high == -1 ? x : kept | odd));
}

/* --- whole numbers from floats: towards zero, the end of the type for what lies beyond it, and 0 for NaN --- */

#define CR_DEFINE_WHOLE(TYPE, NAME, GIVEN, FROM, LOW, HIGH, BEYOND)                      \
    CR_INLINE TYPE cr_##NAME##_##FROM(GIVEN x) {                                         \
        return x >= (GIVEN)(BEYOND) ? HIGH : x >= (GIVEN)(LOW) ? (TYPE)x : x != x ? 0 : LOW; \
    }

CR_DEFINE_WHOLE(int32_t, i32, float, f32, INT32_MIN, INT32_MAX, 0x1p31)
CR_DEFINE_WHOLE(int32_t, i32, double, f64, INT32_MIN, INT32_MAX, 0x1p31)
CR_DEFINE_WHOLE(int64_t, i64, float, f32, INT64_MIN, INT64_MAX, 0x1p63)
CR_DEFINE_WHOLE(int64_t, i64, double, f64, INT64_MIN, INT64_MAX, 0x1p63)
CR_DEFINE_WHOLE(uint32_t, u32, float, f32, 0, UINT32_MAX, 0x1p32)
CR_DEFINE_WHOLE(uint32_t, u32, double, f64, 0, UINT32_MAX, 0x1p32)

/* --- division that rounds down, as in Python; whole numbers by zero are 0 --- */

#define CR_DEFINE_FLOAT_DIVISION(TYPE, NAME, SUFFIX)                                     \
    CR_INLINE TYPE cr_remainder_##NAME(TYPE x, TYPE y) {                                 \
        TYPE rest = fmod##SUFFIX(x, y);                                                  \
        if (rest != 0) return (y < 0) != (rest < 0) ? rest + y : rest;                   \
        return copysign##SUFFIX(0, y);                                                   \
    }                                                                                    \
    CR_INLINE TYPE cr_floor_div_##NAME(TYPE x, TYPE y) {                                 \
        if (y == 0) return x / y;                                                        \
        TYPE rest = fmod##SUFFIX(x, y), quotient = (x - rest) / y;                       \
        if (rest != 0 && (y < 0) != (rest < 0)) quotient -= 1;                           \
        if (quotient == 0) return copysign##SUFFIX(0, x / y);                            \
        TYPE whole = floor##SUFFIX(quotient);                                            \
        return quotient - whole > (TYPE)0.5 ? whole + 1 : whole;                         \
    }

CR_DEFINE_FLOAT_DIVISION(float, f32, f)
CR_DEFINE_FLOAT_DIVISION(double, f64, )

#define CR_DEFINE_WHOLE_DIVISION(TYPE, UNSIGNED, NAME)                                   \
    CR_INLINE TYPE cr_floor_div_##NAME(TYPE x, TYPE y) {                                 \
        if (y == 0) return 0;                                                            \
        if (y == -1) return (TYPE)(0 - (UNSIGNED)x); /* the lowest number wraps around */ \
        return x / y - ((x % y != 0) & ((x < 0) != (y < 0)));                            \
    }                                                                                    \
    CR_INLINE TYPE cr_remainder_##NAME(TYPE x, TYPE y) {                                 \
        if (y == 0 || y == -1) return 0;                                                 \
        TYPE rest = x % y;                                                               \
        return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;                     \
    }

CR_DEFINE_WHOLE_DIVISION(int32_t, uint32_t, i32)
CR_DEFINE_WHOLE_DIVISION(int64_t, uint64_t, i64)

CR_INLINE uint32_t cr_floor_div_u32(uint32_t x, uint32_t y) { return y ? x / y : 0; }
CR_INLINE uint32_t cr_remainder_u32(uint32_t x, uint32_t y) { return y ? x % y : 0; }
