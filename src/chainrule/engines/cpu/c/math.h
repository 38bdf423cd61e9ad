/* Functions of one element, as generated code calls them: cr_NAME_f32, cr_NAME_f64, and whole numbers.
 *
 * Those on float32 are free of branches, so that compilers vectorise the loops around them.
 */
#include <float.h>

#define CR_INLINE static inline __attribute__((always_inline, unused))

CR_INLINE float cr_exp_f32(float x) { return expf(x); }
CR_INLINE double cr_exp_f64(double x) { return exp(x); }
CR_INLINE float cr_expm1_f32(float x) { return expm1f(x); }
CR_INLINE double cr_expm1_f64(double x) { return expm1(x); }
CR_INLINE float cr_log_f32(float x) { return logf(x); }
CR_INLINE double cr_log_f64(double x) { return log(x); }
CR_INLINE float cr_log1p_f32(float x) { return log1pf(x); }
CR_INLINE double cr_log1p_f64(double x) { return log1p(x); }
CR_INLINE float cr_sin_f32(float x) { return sinf(x); }
CR_INLINE double cr_sin_f64(double x) { return sin(x); }
CR_INLINE float cr_cos_f32(float x) { return cosf(x); }
CR_INLINE double cr_cos_f64(double x) { return cos(x); }
CR_INLINE float cr_tanh_f32(float x) { return tanhf(x); }
CR_INLINE double cr_tanh_f64(double x) { return tanh(x); }
CR_INLINE float cr_erf_f32(float x) { return erff(x); }
CR_INLINE double cr_erf_f64(double x) { return erf(x); }
CR_INLINE float cr_logistic_f32(float x) { float e = expf(-fabsf(x)); return (x >= 0 ? 1 : e) / (1 + e); }
CR_INLINE double cr_logistic_f64(double x) { double e = exp(-fabs(x)); return (x >= 0 ? 1 : e) / (1 + e); }
CR_INLINE float cr_pow_f32(float x, float y) { return powf(x, y); }
CR_INLINE double cr_pow_f64(double x, double y) { return pow(x, y); }

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
