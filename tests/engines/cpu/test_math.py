"""Functions of one element in C: accuracy, special values, and that compilers vectorise them."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.engines.cpu import accuracy

from chainrule.engines.cpu.loading import load_library, prelude
from chainrule.engines.cpu.toolchain import TARGETS, NoToolchain, Toolchain, find_toolchain

LARGEST_ERROR = 3.0  # ulp
_TINY = [0.0, 1e-45, 1e-40, 1.1754944e-38, 1e-8]
_PLAIN = [0.25, 0.5, 1.0, 1.0000001, 1.5, 2.0, 3.0, 7.0]
_LARGE = [88.72284, 103.97, 16777215.0, 16777216.0, 1e10, 3.4028235e38, np.inf, np.nan]
SPECIAL = np.array([*_TINY, *_PLAIN, *_LARGE], np.float32)
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])


@pytest.fixture(scope="module", params=list(TARGETS))
def toolchain(request: pytest.FixtureRequest) -> Toolchain:
    found = find_toolchain(request.param)
    if isinstance(found, NoToolchain):
        pytest.skip(found.reason)
    return found


@pytest.fixture(scope="module")
def library(toolchain: Toolchain) -> ctypes.CDLL:
    return accuracy.load(toolchain)


def address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.mark.parametrize("name", [*accuracy.ONE_ARGUMENT, *accuracy.ALONE])
def test_a_dense_sample_is_within_3_ulp(library: ctypes.CDLL, name: str) -> None:
    worst = accuracy.survey(library, name, stride=1021, first=7)
    assert worst.ulp <= LARGEST_ERROR, f"{name}({worst.argument!r}) is {worst.ulp:.2f} ulp off"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*accuracy.ONE_ARGUMENT, *accuracy.ALONE])
def test_all_arguments_are_within_3_ulp(library: ctypes.CDLL, name: str) -> None:
    worst = accuracy.survey(library, name, stride=1)
    assert worst.ulp <= LARGEST_ERROR, f"{name}({worst.argument!r}) is {worst.ulp:.2f} ulp off"


def test_the_measure_sees_errors() -> None:
    shifted = accuracy.source().replace("cr_exp_f32(x[i])", "(cr_exp_f32(x[i]) * 1.000001f)")
    library = load_library(shifted, name="wrong on purpose")
    library.survey_of_exp.restype = ctypes.c_double
    assert accuracy.survey(library, "exp", stride=4099).ulp > 8


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", [name for name in (*accuracy.ONE_ARGUMENT, *accuracy.ALONE) if name != "erf"])
def test_special_values_are_as_numpy_has_them(library: ctypes.CDLL, name: str) -> None:
    got = np.empty_like(SPECIAL)
    getattr(library, f"values_of_{name}")(address(got), address(SPECIAL), ctypes.c_long(len(SPECIAL)))
    with np.errstate(all="ignore"):
        plain = name.removeprefix("alone_")
        wide = (logistic if plain == "logistic" else getattr(np, plain))(SPECIAL.astype(np.float64))
        want = wide.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    kept = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[kept]), np.signbit(want[kept]))
    np.testing.assert_allclose(got[kept], want[kept], rtol=4e-7, atol=3e-45)


def test_erf_of_special_values(library: ctypes.CDLL) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 5.0], np.float32)
    got = np.empty_like(x)
    library.values_of_erf(address(got), address(x), ctypes.c_long(len(x)))
    np.testing.assert_array_equal(got, np.array([0, 0, 1, -1, np.nan, 1e-45, 1], np.float32))
    assert np.signbit(got[1])


def survey_of_powers(library: ctypes.CDLL, x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    at = ctypes.c_long()
    ulp = library.survey_of_pow(address(x), address(y), ctypes.c_long(len(x)), ctypes.byref(at))
    return ulp, f"pow({x[at.value]!r}, {y[at.value]!r}) is {ulp:.2f} ulp off"


def test_powers_of_special_values_are_as_c_has_them(library: ctypes.CDLL) -> None:
    x, y = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(SPECIAL, SPECIAL))
    ulp, report = survey_of_powers(library, x, y)
    assert ulp <= LARGEST_ERROR, report


@pytest.mark.parametrize("seed", range(3))
def test_powers_are_within_3_ulp(library: ctypes.CDLL, seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = 400_000
    any_bits = generator.integers(0, 2**32, (2, count), np.uint32).view(np.float32)
    near_one = (1 + generator.normal(size=count) * 10.0 ** generator.uniform(-7, 0, count)).astype(np.float32)
    usual = np.exp(generator.normal(size=count) * 3).astype(np.float32)
    exponents = (generator.normal(size=count) * 10.0 ** generator.uniform(-2, 6, count)).astype(np.float32)
    whole = generator.integers(-20, 20, count).astype(np.float32)
    # From a result that is finite, so that most of these do not overflow.
    with np.errstate(all="ignore"):
        fitting = (generator.uniform(-105, 90, count) / np.log(usual.astype(np.float64))).astype(np.float32)
    for x, y in [any_bits, (near_one, exponents), (usual, fitting), (-usual, whole), (any_bits[0], whole)]:
        ulp, report = survey_of_powers(library, np.ascontiguousarray(x), np.ascontiguousarray(y))
        assert ulp <= LARGEST_ERROR, report


@pytest.mark.parametrize("name", [name for name in accuracy.ONE_ARGUMENT if name != "erf"])
def test_float64_is_within_a_few_ulp(library: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([np.linspace(-30, 30, 10007), [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e300, -1e300]])
    got = np.empty_like(x)
    getattr(library, f"wide_values_of_{name}")(address(got), address(x), ctypes.c_long(len(x)))
    with np.errstate(all="ignore"):
        want = (logistic if name == "logistic" else getattr(np, name))(x)
    np.testing.assert_allclose(got, want, rtol=2e-15, atol=1e-322)


@pytest.mark.parametrize("name", [*accuracy.ONE_ARGUMENT, "pow"])
def test_loops_are_vectorised(toolchain: Toolchain, name: str, tmp_path: Path) -> None:
    if "clang" in toolchain.features:
        pytest.skip("only GCC says it in this way")
    if name in ("sin", "cos") and "avx512" not in toolchain.features:
        pytest.skip("they look up a table, which vectors do well only from AVX-512 on")
    call = "cr_pow_f32(x[i], z[i])" if name == "pow" else f"cr_{name}_f32(x[i])"
    loop = f"for (long i = 0; i < n; i++) y[i] = {call};"
    head = "void f(float *restrict y, const float *restrict x, const float *restrict z, long n)"
    source = tmp_path / "loop.c"
    source.write_text(f'{prelude()}\n#line 1 "here"\n{head} {{ {loop} }}')
    report = subprocess.run(
        [
            *toolchain.command,
            *toolchain.flags,
            "-fopt-info-vec-optimized",
            "-c",
            str(source),
            "-o",
            str(tmp_path / "o"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert re.search(rf"^here:1:\d+: optimized: loop vectorized using {toolchain.vector_bytes} byte", report, re.M), (
        report
    )


_EVERYTHING = """
int main(void) {
    float x = 0, y = 0;
    double sum = 0;
    for (uint64_t i = 0; i < 1u << 20; i++) {
        x = cr_from_bits((uint32_t)(i * 4093));
        sum += cr_exp_f32(x) + cr_expm1_f32(x) + cr_log_f32(x) + cr_log1p_f32(x) + cr_sin_f32(x) + cr_cos_f32(x);
        sum += cr_tanh_f32(x) + cr_logistic_f32(x) + cr_erf_f32(x) + cr_pow_f32(x, y) + cr_pow_f32(y, x);
        sum += cr_remainder_f32(x, y) + cr_floor_div_f32(x, y);
        sum += cr_floor_div_i32((int32_t)(uint32_t)(i * 8191), (int32_t)(i % 7) - 3);
        sum += cr_remainder_i32(INT32_MIN, (int32_t)(i % 3) - 1);
        sum += cr_i32_f32(x) + (double)cr_i64_f32(x) + cr_u32_f32(x) + cr_i32_f64(x) + (double)cr_i64_f64(x) + cr_u32_f64(x);
        y = x;
    }
    return sum == 1;
}
"""


@pytest.mark.slow
def test_the_functions_under_sanitizers(toolchain: Toolchain, tmp_path: Path) -> None:
    source, program = tmp_path / "all.c", tmp_path / "all"
    source.write_text(prelude() + _EVERYTHING)
    checks = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-g"]
    built = subprocess.run(
        [*toolchain.command, *toolchain.flags, *checks, str(source), "-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr or "unsupported" in built.stderr:
        pytest.skip(f"this compiler comes without these sanitizers: {built.stderr}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


# --- division that rounds down ----------------------------------------------------------------------------------------

_DIVISIONS = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "u32": np.uint32}


@pytest.mark.parametrize("suffix", _DIVISIONS)
@pytest.mark.parametrize(("name", "function"), [("floor_div", np.floor_divide), ("remainder", np.remainder)])
def test_division_rounds_down_as_numpy_does(suffix: str, name: str, function: np.ufunc) -> None:
    dtype = np.dtype(_DIVISIONS[suffix])
    if dtype.kind == "f":
        values = np.array([0, -0.0, 1, -1, 2.5, -2.5, 3, -7, 0.1, 1e20, -1e20, np.inf, -np.inf, np.nan], dtype)
    else:
        limits = np.iinfo(dtype)
        values = np.array([limits.min, limits.min + 1, 0, 1, 2, 3, 7, limits.max - 1, limits.max], dtype)
        if dtype.kind == "i":
            values = np.concatenate([values, np.array([-1, -2, -3, -7], dtype)])
    x, y = (np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values))
    c_type = {"f32": "float", "f64": "double", "i32": "int32_t", "i64": "int64_t", "u32": "uint32_t"}[suffix]
    parameters = f"{c_type} *z, const {c_type} *x, const {c_type} *y, long n"
    body = f"for (long i = 0; i < n; i++) z[i] = cr_{name}_{suffix}(x[i], y[i]);"
    library = load_library(f"CR_EXPORT void divide({parameters}) {{ {body} }}", name=f"{name} {suffix}")
    got = np.empty_like(x)
    library.divide(address(got), address(x), address(y), ctypes.c_long(len(x)))
    with np.errstate(all="ignore"):
        want = function(x, y)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[got == got]), np.signbit(want[got == got]))
