"""How far the functions of ``c/math.h`` are from the exact values, measured in C over all float32 arguments or a sample."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from chainrule.engines.cpu.loading import load_library
from chainrule.engines.cpu.toolchain import Toolchain

ONE_ARGUMENT = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic", "erf")
# Other forms of the same functions, for code that evaluates one element at a time.
ALONE = ("alone_exp", "alone_tanh", "alone_logistic")

# Exact enough: the C library's float64 functions are good to 1 ulp of float64.
_COMMON = """
enum { BLOCK = 4096, PIECES = 1024 };

typedef struct {
    long stride, first;
    double worst[PIECES];
    uint32_t at[PIECES];
} survey;

static double logistic(double x) {
    double e = exp(-fabs(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

#define alone_exp exp
#define alone_tanh tanh
#define alone_logistic logistic
#define cr_alone_exp_f64 cr_exp_f64
#define cr_alone_tanh_f64 cr_tanh_f64
#define cr_alone_logistic_f64 cr_logistic_f64

/* In units of the last place of a float32 at the exact value; infinite where NaN, infinity or the sign of zero is wrong. */
static double distance(float got, double exact) {
    if (exact != exact || got != got) return exact != exact && got != got ? 0 : INFINITY;
    if (isinf((float)exact) || isinf(got)) {
        if (got == (float)exact) return 0;
        if (isinf(exact) || !signbit(got) != !signbit(exact)) return INFINITY;
        double reached = isinf(got) ? copysign(0x1p128, got) : got;
        return fabs(reached - exact) / 0x1p104;
    }
    if ((exact == 0 || got == 0) && !signbit(got) != !signbit(exact)) return INFINITY;
    uint64_t bits;
    memcpy(&bits, &exact, sizeof bits);
    int exponent = (int)(bits >> 52 & 2047) - 1023;
    bits = (uint64_t)(1023 + 23 - (exponent < -126 ? -126 : exponent)) << 52;
    double places; /* in 1 */
    memcpy(&places, &bits, sizeof places);
    return fabs(got - exact) * places;
}
"""

_ONE = """
static void fill_{name}(float *restrict y, const float *restrict x) {{
    for (int i = 0; i < BLOCK; i++) y[i] = cr_{name}_f32(x[i]);
}}

static void survey_{name}(void *context, long piece) {{
    survey *all = context;
    float x[BLOCK], y[BLOCK];
    double worst = 0;
    uint32_t at = 0;
    long each = (1L << 32) / all->stride / PIECES + 1;
    for (long begin = piece * each; begin < (piece + 1) * each; begin += BLOCK) {{
        for (int i = 0; i < BLOCK; i++) x[i] = cr_from_bits((uint32_t)((begin + i) * all->stride + all->first));
        fill_{name}(y, x);
        for (int i = 0; i < BLOCK; i++) {{
            double d = distance(y[i], {name}((double)x[i]));
            if (d > worst) worst = d, at = cr_bits(x[i]);
        }}
    }}
    all->worst[piece] = worst;
    all->at[piece] = at;
}}

CR_EXPORT double survey_of_{name}(long stride, long first, uint32_t *at) {{
    survey *all = calloc(1, sizeof *all);
    all->stride = stride;
    all->first = first;
    cr_parallel(survey_{name}, all, PIECES);
    double worst = 0;
    for (int piece = 0; piece < PIECES; piece++)
        if (all->worst[piece] > worst) worst = all->worst[piece], *at = all->at[piece];
    free(all);
    return worst;
}}

CR_EXPORT void values_of_{name}(float *y, const float *x, long n) {{
    for (long i = 0; i < n; i++) y[i] = cr_{name}_f32(x[i]);
}}

CR_EXPORT void wide_values_of_{name}(double *y, const double *x, long n) {{
    for (long i = 0; i < n; i++) y[i] = cr_{name}_f64(x[i]);
}}
"""

_TWO = """
CR_EXPORT void values_of_pow(float *restrict z, const float *restrict x, const float *restrict y, long n) {
    for (long i = 0; i < n; i++) z[i] = cr_pow_f32(x[i], y[i]);
}

CR_EXPORT double survey_of_pow(const float *x, const float *y, long n, long *at) {
    float *z = malloc((size_t)n * sizeof *z);
    values_of_pow(z, x, y, n);
    double worst = 0;
    for (long i = 0; i < n; i++) {
        double d = distance(z[i], pow(x[i], y[i]));
        if (d > worst) worst = d, *at = i;
    }
    free(z);
    return worst;
}
"""


@dataclass(frozen=True)
class Worst:
    """The largest error in units of the last place, and the argument where it occurs."""

    ulp: float
    argument: float


def load(toolchain: Toolchain) -> ctypes.CDLL:
    """The functions and their measurement, compiled for one target."""
    library = load_library(source(), name="accuracy", toolchain=toolchain)
    for name in (*ONE_ARGUMENT, *ALONE):
        getattr(library, f"survey_of_{name}").restype = ctypes.c_double
    library.survey_of_pow.restype = ctypes.c_double
    return library


def source() -> str:
    return _COMMON + "".join(_ONE.format(name=name) for name in (*ONE_ARGUMENT, *ALONE)) + _TWO


def survey(library: ctypes.CDLL, name: str, stride: int, first: int = 0) -> Worst:
    """Every ``stride``-th of the 2³² arguments, beginning with the one whose bits are ``first``."""
    at = ctypes.c_uint32()
    ulp = getattr(library, f"survey_of_{name}")(ctypes.c_long(stride), ctypes.c_long(first), ctypes.byref(at))
    return Worst(ulp, struct.unpack("f", struct.pack("I", at.value))[0])
