/* hidden forward: hidden_11 = pad(params_hidden_weight_0) */
static void nest_0(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const params_hidden_weight_0 = (float *)frame->slot[0];
    float *restrict const hidden_11 = (float *)frame->slot[11];
    const long low = 0, high = 2;
    for (long i0 = low; i0 < high; i0++) {
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 4; i1++) {
            const _Bool v0 = (i1) < 2;
            const float v1 = v0 ? params_hidden_weight_0[2 * i0 + i1] : 0;
            const float v2 = v0 ? v1 : 0.0f;
            hidden_11[4 * i0 + i1] = v2;
        }
    }
}

static void tile_c2467e8850(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B) {
    cr_float32x4 c0_0 = {0}, c1_0 = {0}, c2_0 = {0}, c3_0 = {0};
    for (long k2 = 0; k2 < 2; k2++) {
        const float x0 = x[k2];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (4 * k2));
        CR_ONCE(y0);
        c0_0 += x0 * y0;
        const float x1 = x[k2 + 2];
        c1_0 += x1 * y0;
        const float x2 = x[k2 + 4];
        c2_0 += x2 * y0;
        const float x3 = x[k2 + 6];
        c3_0 += x3 * y0;
    }
    *(cr_float32x4_anywhere *)(to + 0) = c0_0;
    *(cr_float32x4_anywhere *)(to + 4) = c1_0;
    *(cr_float32x4_anywhere *)(to + 8) = c2_0;
    *(cr_float32x4_anywhere *)(to + 12) = c3_0;
}

static void tile_c5b4d57876(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B) {
    cr_float32x4 c0_0 = {0}, c1_0 = {0};
    for (long k2 = 0; k2 < 2; k2++) {
        const float x0 = x[k2];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (4 * k2));
        CR_ONCE(y0);
        c0_0 += x0 * y0;
        const float x1 = x[k2 + 2];
        c1_0 += x1 * y0;
    }
    *(cr_float32x4_anywhere *)(to + 0) = c0_0;
    *(cr_float32x4_anywhere *)(to + 4) = c1_0;
}

static void tile_0987f16980(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B) {
    cr_float32x4 c0_0 = {0};
    for (long k2 = 0; k2 < 2; k2++) {
        const float x0 = x[k2];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (4 * k2));
        c0_0 += x0 * y0;
    }
    *(cr_float32x4_anywhere *)(to + 0) = c0_0;
}

/* hidden forward: result = x_4 @ hidden_11;
   hidden_12 = exp(neg((result + params_hidden_bias_1)));
   hidden_13 = (1.0 / (1.0 + hidden_12)) */
static void nest_1(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const x_4 = (float *)frame->slot[4];
    float *restrict const hidden_11 = (float *)frame->slot[11];
    float *restrict const params_hidden_bias_1 = (float *)frame->slot[1];
    float *restrict const hidden_12 = (float *)frame->slot[12];
    float *restrict const hidden_13 = (float *)frame->slot[13];
    const long chunks = cr_chunks((104 * B), 262144, 1 * ((B + 1259) / 1260)), units = 1 * ((B + 1259) / 1260);
    const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);
    for (long unit = low; unit < high; unit++) {
        const long panel = 0;
        const long block = unit;
        const long last_tile = cr_least((block + 1) * 315, (B + 3) / 4);
        for (long tile = block * 315; tile < last_tile; tile++) {
            const long row_end = cr_least(tile * 4 + 4, B);
            long rows_left = 4;
            for (long k0 = tile * 4; k0 < row_end; k0 += rows_left) {
                while (rows_left > row_end - k0) rows_left /= 2;
                const long count_k0 = rows_left;
                float finished[16] __attribute__((aligned(64)));
                if (count_k0 == 4) tile_c2467e8850(x_4 + (2 * k0), hidden_11 + (0), finished, 0, 0, 1, 1, B);
                else if (count_k0 == 2) tile_c5b4d57876(x_4 + (2 * k0), hidden_11 + (0), finished, 0, 0, 1, 1, B);
                else if (count_k0 == 1) tile_0987f16980(x_4 + (2 * k0), hidden_11 + (0), finished, 0, 0, 1, 1, B);
                const long width = cr_least(4, 2 - (0));
                for (long r0 = 0; r0 < count_k0; r0++) {
                    const long this_k0 = k0 + r0;
                    CR_INDEPENDENT
                    for (long l = 0; l < width; l++) {
                        const long place = l;
                        const float v0 = finished[r0 * (4) + l];
                        const float v1 = params_hidden_bias_1[place];
                        const float v2 = v0 + v1;
                        const float v3 = -v2;
                        const float v4 = cr_exp_f32(v3);
                        const float v5 = 1.0f + v4;
                        const float v6 = 1.0f / v5;
                        hidden_12[2 * this_k0 + place] = v4;
                        hidden_13[2 * this_k0 + place] = v6;
                    }
                }
            }
        }
    }
}

/* output forward: output_14 = hidden_13 @ params_output_weight_2 */
static void nest_2(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const hidden_13 = (float *)frame->slot[13];
    float *restrict const params_output_weight_2 = (float *)frame->slot[2];
    float *restrict const output_14 = (float *)frame->slot[14];
    const long chunks = cr_chunks((6 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    for (long k0 = low; k0 < high; k0++) {
        float sum = 0.0f;
        for (long k2 = 0; k2 < 2; k2++) {
            const float v0 = hidden_13[2 * k0 + k2];
            const float v1 = params_output_weight_2[k2];
            sum = sum + v0 * v1;
        }
        output_14[k0] = sum;
    }
}

/* step backward: d_11 = (0.5 / cast(extent())) */
static void nest_3(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_11 = (float *)frame->slot[11];
    const int64_t v0 = B;
    const float v1 = (float)v0;
    const float v2 = 0.5f / v1;
    d_11[0] = v2;
}

/* output backward, step forward: d_output_15 = neg((neg(((((... * ...) + (... * ...)) * (1.0 / (... + ...))) / (1.0 + exp(neg(...))))) * exp(neg((output_14 + params_output_bias_3)))));
   t_16 = reduce_sum((((1.0 / (1.0 + exp(neg(...)))) - y_5) * ((1.0 / (1.0 + exp(neg(...)))) - y_5)));
   d_output_10 = reduce_sum(d_output_15) */
static void nest_4(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_11 = (float *)frame->slot[11];
    float *restrict const output_14 = (float *)frame->slot[14];
    float *restrict const params_output_bias_3 = (float *)frame->slot[3];
    float *restrict const y_5 = (float *)frame->slot[5];
    float *restrict const d_output_15 = (float *)frame->slot[15];
    float *restrict const side_0 = (float *)(frame->scratch + 0);
    float *restrict const side_1 = (float *)(frame->scratch + 16384);
    const long chunks = cr_chunks((32 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    float *const own_0 = side_0 + chunk * 64;
    for (long k = 0; k < 64; k++) own_0[k] = 0;
    float *const own_1 = side_1 + chunk * 64;
    for (long k = 0; k < 64; k++) own_1[k] = 0;
    {
        long block = low;
        for (; block + 64 <= high; block += 64) {
            CR_INDEPENDENT
            for (long l = 0; l < 64; l++) {
                const float v0 = d_11[0];
                const float v1 = output_14[block + l];
                const float v2 = params_output_bias_3[0];
                const float v3 = v1 + v2;
                const float v4 = -v3;
                const float v5 = cr_exp_f32(v4);
                const float v6 = 1.0f + v5;
                const float v7 = 1.0f / v6;
                const float v8 = y_5[block + l];
                const float v9 = v7 - v8;
                const float v10 = v0 * v9;
                const float v11 = v10 + v10;
                const float v12 = v11 * v7;
                const float v13 = v12 / v6;
                const float v14 = -v13;
                const float v15 = v14 * v5;
                const float v16 = -v15;
                const float v17 = v9 * v9;
                d_output_15[block + l] = v16;
                own_0[l] += v17;
                own_1[l] += v16;
            }
        }
        CR_INDEPENDENT
        for (long l = 0; l < high - block; l++) {
            const float v0 = d_11[0];
            const float v1 = output_14[block + l];
            const float v2 = params_output_bias_3[0];
            const float v3 = v1 + v2;
            const float v4 = -v3;
            const float v5 = cr_exp_f32(v4);
            const float v6 = 1.0f + v5;
            const float v7 = 1.0f / v6;
            const float v8 = y_5[block + l];
            const float v9 = v7 - v8;
            const float v10 = v0 * v9;
            const float v11 = v10 + v10;
            const float v12 = v11 * v7;
            const float v13 = v12 / v6;
            const float v14 = -v13;
            const float v15 = v14 * v5;
            const float v16 = -v15;
            const float v17 = v9 * v9;
            d_output_15[block + l] = v16;
            own_0[l] += v17;
            own_1[l] += v16;
        }
    }
}

static void nest_4_after(void *context) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const t_16 = (float *)frame->slot[16];
    float *restrict const d_output_10 = (float *)frame->slot[10];
    float *restrict const side_0 = (float *)(frame->scratch + 0);
    float *restrict const side_1 = (float *)(frame->scratch + 16384);
    const long chunks = cr_chunks((32 * B), 65536, B);
    for (long part = 1; part < chunks; part++) {
        CR_INDEPENDENT
        for (long k = 0; k < 64; k++) side_0[k] += side_0[part * 64 + k];
    }
    for (long k = 0; k < 32; k++) side_0[k] += side_0[k + 32];
    for (long k = 0; k < 16; k++) side_0[k] += side_0[k + 16];
    for (long k = 0; k < 8; k++) side_0[k] += side_0[k + 8];
    for (long k = 0; k < 4; k++) side_0[k] += side_0[k + 4];
    for (long k = 0; k < 2; k++) side_0[k] += side_0[k + 2];
    for (long k = 0; k < 1; k++) side_0[k] += side_0[k + 1];
    for (long k = 0; k < 1; k++) t_16[k] = side_0[k];
    for (long part = 1; part < chunks; part++) {
        CR_INDEPENDENT
        for (long k = 0; k < 64; k++) side_1[k] += side_1[part * 64 + k];
    }
    for (long k = 0; k < 32; k++) side_1[k] += side_1[k + 32];
    for (long k = 0; k < 16; k++) side_1[k] += side_1[k + 16];
    for (long k = 0; k < 8; k++) side_1[k] += side_1[k + 8];
    for (long k = 0; k < 4; k++) side_1[k] += side_1[k + 4];
    for (long k = 0; k < 2; k++) side_1[k] += side_1[k + 2];
    for (long k = 0; k < 1; k++) side_1[k] += side_1[k + 1];
    for (long k = 0; k < 1; k++) d_output_10[k] = side_1[k];
}

/* step forward: t_6 = (0.5 * (t_16 / cast(extent()))) */
static void nest_5(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const t_16 = (float *)frame->slot[16];
    float *restrict const t_6 = (float *)frame->slot[6];
    const float v0 = t_16[0];
    const int64_t v1 = B;
    const float v2 = (float)v1;
    const float v3 = v0 / v2;
    const float v4 = 0.5f * v3;
    t_6[0] = v4;
}

/* output backward: d_output_17 = d_output_15 @ params_output_weight_2.T */
static void nest_6(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_output_15 = (float *)frame->slot[15];
    float *restrict const params_output_weight_2 = (float *)frame->slot[2];
    float *restrict const d_output_17 = (float *)frame->slot[17];
    const long chunks = cr_chunks((6 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    for (long k0 = low; k0 < high; k0++) {
        for (long block = 0; block < 2; block += 64) {
            float sums[64];
            for (long l = 0; l < 64; l++) sums[l] = 0.0f;
            const long width = cr_least(64, 2 - block);
            CR_INDEPENDENT
            for (long l = 0; l < 2; l++) {
                const float v0 = d_output_15[k0];
                const float v1 = params_output_weight_2[block + l];
                sums[l] = sums[l] + v0 * v1;
            }
            for (long l = 0; l < width; l++) d_output_17[2 * k0 + block + l] = sums[l];
        }
    }
}

static void tile_f84e3e13f3(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B) {
    cr_float32x4 c0 = {0};
    for (long k0 = first; k0 < end; k0++) {
        const float x0 = x[k0];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (4 * k0));
        c0 += x0 * y0;
    }
    if (!fresh) {
        {
            cr_float32x4 before = {0};
            memcpy(&before, to + 0, 8);
            c0 += before;
        }
    }
    memcpy(to + 0, &c0, 8);
}

/* hidden_13 with a border of zeros */
static void nest_7(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const hidden_13 = (float *)frame->slot[13];
    float *restrict const border_a = (float *)(frame->scratch + 0);
    const long chunks = cr_chunks((6 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    for (long i0 = low; i0 < high; i0++) {
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 2; i1++) {
            const float v0 = hidden_13[2 * i0 + i1];
            border_a[4 * i0 + i1] = v0;
        }
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 2; i1++) {
            border_a[4 * i0 + i1 + 2] = 0;
        }
    }
}

/* output backward: d_output_9 = hidden_13.T @ d_output_15 */
static void nest_8(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_output_9 = (float *)frame->slot[9];
    float *restrict const d_output_15 = (float *)frame->slot[15];
    float *restrict const border_a = (float *)(frame->scratch + 0);
    float *restrict const parts = (float *)(frame->scratch + (64 * B));
    const long ranges = cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16)), shares = cr_least(cr_chunks((4 * B) / ranges, 262144, 1), 16 / ranges);
    const long range = chunk / shares, share = chunk % shares;
    const long start = cr_cut(B, range, ranges), end = cr_cut(B, range + 1, ranges);
    float *const target = ranges > 1 ? parts + range * 2 : d_output_9;
    if (start == end && !share) memset(target, 0, (size_t)(2) * sizeof *target);
    const long units = 1;
    const long low = cr_cut(units, share, shares), high = cr_cut(units, share + 1, shares);
    const long step = (end - start) / ((end - start) / 24576 + 1) + 1;
    for (long first_k0 = start; first_k0 < end; first_k0 += step) {
        const long last_k0 = cr_least(first_k0 + step, end), ahead = last_k0 < end ? step : 0;
        const _Bool fresh = first_k0 == start;
        for (long unit = low; unit < high; unit++) {
            const long block = 0;
            const long panel = 0;
            tile_f84e3e13f3(d_output_15 + (0), border_a + (0), target + (0), first_k0, last_k0, fresh, 1, B);
        }
    }
}

/* the parts of the sum */
static void nest_9(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_output_9 = (float *)frame->slot[9];
    float *restrict const parts = (float *)(frame->scratch + (64 * B));
    const long low = 0, high = 2;
    const long count = cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16));
    for (long part = 1; part < count; part++) {
        CR_INDEPENDENT
        for (long k = low * 1; k < high * 1; k++) parts[k] += parts[part * 2 + k];
    }
    CR_INDEPENDENT
    for (long i0 = low; i0 < high; i0++) {
        const float v0 = parts[i0];
        d_output_9[i0] = v0;
    }
}

/* hidden backward: d_hidden_18 = neg((neg(((d_output_17 * hidden_13) / (1.0 + hidden_12))) * hidden_12));
   d_hidden_8 = reduce_sum(d_hidden_18) */
static void nest_10(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_output_17 = (float *)frame->slot[17];
    float *restrict const hidden_13 = (float *)frame->slot[13];
    float *restrict const hidden_12 = (float *)frame->slot[12];
    float *restrict const d_hidden_18 = (float *)frame->slot[18];
    float *restrict const side_0 = (float *)(frame->scratch + 0);
    const long chunks = cr_chunks((22 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    float *const own_0 = side_0 + chunk * 2;
    for (long k = 0; k < 2; k++) own_0[k] = 0;
    for (long i0 = low; i0 < high; i0++) {
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 2; i1++) {
            const float v0 = d_output_17[2 * i0 + i1];
            const float v1 = hidden_13[2 * i0 + i1];
            const float v2 = v0 * v1;
            const float v3 = hidden_12[2 * i0 + i1];
            const float v4 = 1.0f + v3;
            const float v5 = v2 / v4;
            const float v6 = -v5;
            const float v7 = v6 * v3;
            const float v8 = -v7;
            d_hidden_18[2 * i0 + i1] = v8;
            own_0[i1] += v8;
        }
    }
}

static void nest_10_after(void *context) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_hidden_8 = (float *)frame->slot[8];
    float *restrict const side_0 = (float *)(frame->scratch + 0);
    const long chunks = cr_chunks((22 * B), 65536, B);
    for (long part = 1; part < chunks; part++) {
        CR_INDEPENDENT
        for (long k = 0; k < 2; k++) side_0[k] += side_0[part * 2 + k];
    }
    for (long k = 0; k < 2; k++) d_hidden_8[k] = side_0[k];
}

static void tile_8ea20f8c6d(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B, const float *f0, long fetched) {
    cr_float32x4 c0_0 = {0}, c1_0 = {0};
    const long between = (end - first) / 2;
    long near = 0, next = first;
    for (long k0 = first; k0 < end; k0++) {
        if (k0 >= next) {
            if (near < fetched) {
                CR_FETCH_TO_WRITE(f0 + (2 * near));
            }
            next = ++near < 2 ? next + between : end;
        }
        const float x0 = x[2 * k0];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (4 * k0));
        CR_ONCE(y0);
        c0_0 += x0 * y0;
        const float x1 = x[2 * k0 + 1];
        c1_0 += x1 * y0;
    }
    if (!fresh) {
        {
            cr_float32x4 before = {0};
            memcpy(&before, to + 0, 8);
            c0_0 += before;
        }
        {
            cr_float32x4 before = {0};
            memcpy(&before, to + 2, 8);
            c1_0 += before;
        }
    }
    memcpy(to + 0, &c0_0, 8);
    memcpy(to + 2, &c1_0, 8);
}

/* d_hidden_18 with a border of zeros */
static void nest_11(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_hidden_18 = (float *)frame->slot[18];
    float *restrict const border_b = (float *)(frame->scratch + 0);
    const long chunks = cr_chunks((6 * B), 65536, B), extent = B;
    const long low = cr_cut(extent, chunk, chunks), high = cr_cut(extent, chunk + 1, chunks);
    for (long i0 = low; i0 < high; i0++) {
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 2; i1++) {
            const float v0 = d_hidden_18[2 * i0 + i1];
            border_b[4 * i0 + i1] = v0;
        }
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 2; i1++) {
            border_b[4 * i0 + i1 + 2] = 0;
        }
    }
}

/* hidden backward: d_hidden_7 = x_4.T @ d_hidden_18 */
static void nest_12(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_hidden_7 = (float *)frame->slot[7];
    float *restrict const x_4 = (float *)frame->slot[4];
    float *restrict const border_b = (float *)(frame->scratch + 0);
    float *restrict const parts = (float *)(frame->scratch + (64 * B));
    const long ranges = cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16)), shares = cr_least(cr_chunks((8 * B) / ranges, 262144, 1), 16 / ranges);
    const long range = chunk / shares, share = chunk % shares;
    const long start = cr_cut(B, range, ranges), end = cr_cut(B, range + 1, ranges);
    float *const target = ranges > 1 ? parts + range * 4 : d_hidden_7;
    if (start == end && !share) memset(target, 0, (size_t)(4) * sizeof *target);
    const long units = 1;
    const long low = cr_cut(units, share, shares), high = cr_cut(units, share + 1, shares);
    const long step = (end - start) / ((end - start) / 24576 + 1) + 1;
    for (long first_k0 = start; first_k0 < end; first_k0 += step) {
        const long last_k0 = cr_least(first_k0 + step, end), ahead = last_k0 < end ? step : 0;
        const _Bool fresh = first_k0 == start;
        for (long unit = low; unit < high; unit++) {
            const long block = 0;
            const long panel = 0;
            const long last_tile = cr_least((block + 1) * 1, 1);
            for (long tile = block * 1; tile < last_tile; tile++) {
                const long k2 = tile * 2 / 1;
                tile_8ea20f8c6d(x_4 + (k2), border_b + (0), target + (2 * k2), first_k0, last_k0, fresh, 1, B, target + (2 * k2), 2);
            }
        }
    }
}

/* the parts of the sum */
static void nest_13(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const d_hidden_7 = (float *)frame->slot[7];
    float *restrict const parts = (float *)(frame->scratch + (64 * B));
    const long low = 0, high = 4;
    const long count = cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16));
    for (long part = 1; part < count; part++) {
        CR_INDEPENDENT
        for (long k = low * 1; k < high * 1; k++) parts[k] += parts[part * 4 + k];
    }
    CR_INDEPENDENT
    for (long i0 = low; i0 < high; i0++) {
        const float v0 = parts[i0];
        d_hidden_7[i0] = v0;
    }
}

/* One example: value_and_gradients, element by element. */
static __attribute__((noinline)) void graph_0_of_one(char **arrays, const cr_repetition *how) {
    char *const a0 = arrays[0];
    const int64_t b0 = how->bytes[0];
    char *const a1 = arrays[1];
    const int64_t b1 = how->bytes[1];
    char *const a2 = arrays[2];
    const int64_t b2 = how->bytes[2];
    char *const a3 = arrays[3];
    const int64_t b3 = how->bytes[3];
    char *const a4 = arrays[4];
    const int64_t b4 = how->bytes[4];
    char *const a5 = arrays[5];
    const int64_t b5 = how->bytes[5];
    char *const a6 = arrays[6];
    const int64_t b6 = how->bytes[6];
    char *const a7 = arrays[7];
    const int64_t b7 = how->bytes[7];
    char *const a8 = arrays[8];
    const int64_t b8 = how->bytes[8];
    char *const a9 = arrays[9];
    const int64_t b9 = how->bytes[9];
    char *const a10 = arrays[10];
    const int64_t b10 = how->bytes[10];
    for (long step = 0; step < how->steps; step++) {
        const int64_t row = how->rows ? how->rows[step] : step;
        float v1 = ((const float *)(a0 + row * b0))[0];
        float v2 = ((const float *)(a0 + row * b0))[1];
        float v3 = ((const float *)(a0 + row * b0))[2];
        float v4 = ((const float *)(a0 + row * b0))[3];
        float v5 = ((const float *)(a1 + row * b1))[0];
        float v6 = ((const float *)(a1 + row * b1))[1];
        float v7 = ((const float *)(a2 + row * b2))[0];
        float v8 = ((const float *)(a2 + row * b2))[1];
        float v9 = ((const float *)(a3 + row * b3))[0];
        float v10 = ((const float *)(a4 + row * b4))[0];
        float v11 = ((const float *)(a4 + row * b4))[1];
        float v12 = ((const float *)(a5 + row * b5))[0];
        /* hidden forward */
        const float v13 = v5 + (v10 * v1);
        const float v14 = v13 + (v11 * v3);
        const float v15 = v6 + (v10 * v2);
        const float v16 = v15 + (v11 * v4);
        const float v17 = -v14;
        const float v18 = -v16;
        const float v19 = cr_alone_exp_f32(v17);
        const float v20 = cr_alone_exp_f32(v18);
        const float v21 = 1.0f + v19;
        const float v22 = 1.0f + v20;
        const float v23 = 1.0f / v21;
        const float v24 = 1.0f / v22;
        /* output forward */
        const float v25 = v9 + (v23 * v7);
        const float v26 = v25 + (v24 * v8);
        const float v27 = -v26;
        const float v28 = cr_alone_exp_f32(v27);
        const float v29 = 1.0f + v28;
        const float v30 = 1.0f / v29;
        /* step forward */
        const float v31 = v30 - v12;
        const float v32 = v31 * v31;
        const float v33 = (float)INT64_C(1);
        const float v34 = v32 / v33;
        const float v35 = 0.5f * v34;
        /* step backward */
        const float v36 = 0.5f / v33;
        const float v37 = v36 * v31;
        const float v38 = v37 + v37;
        /* output backward */
        const float v39 = v38 * v30;
        const float v40 = v39 / v29;
        const float v41 = -v40;
        const float v42 = v41 * v28;
        const float v43 = -v42;
        const float v44 = (v43 * v7);
        const float v45 = (v43 * v8);
        const float v46 = (v23 * v43);
        const float v47 = (v24 * v43);
        /* hidden backward */
        const float v48 = v44 * v23;
        const float v49 = v45 * v24;
        const float v50 = v48 / v21;
        const float v51 = v49 / v22;
        const float v52 = -v50;
        const float v53 = -v51;
        const float v54 = v52 * v19;
        const float v55 = v53 * v20;
        const float v56 = -v54;
        const float v57 = -v55;
        const float v58 = (v10 * v56);
        const float v59 = (v10 * v57);
        const float v60 = (v11 * v56);
        const float v61 = (v11 * v57);
        ((float *)(a6 + step * b6))[0] = v35;
        ((float *)(a7 + step * b7))[0] = v58;
        ((float *)(a7 + step * b7))[1] = v59;
        ((float *)(a7 + step * b7))[2] = v60;
        ((float *)(a7 + step * b7))[3] = v61;
        ((float *)(a8 + step * b8))[0] = v56;
        ((float *)(a8 + step * b8))[1] = v57;
        ((float *)(a9 + step * b9))[0] = v46;
        ((float *)(a9 + step * b9))[1] = v47;
        ((float *)(a10 + step * b10))[0] = v43;
    }
}

static long graph_0_arena(long B) {
    long own = 0, most = (64 * B + 32768);
    own += cr_apart(32);
    own += cr_apart((8 * B));
    own += cr_apart((8 * B));
    own += cr_apart((4 * B));
    own += cr_apart((4 * B));
    own += cr_apart(4);
    own += cr_apart((8 * B));
    own += cr_apart((8 * B));
    return own + cr_round(most) + 64;
}
static long graph_0_borrowed(long B) {
    long most = 0;
    return most;
}

static void graph_0(char **arrays, char **constants, char *arena, long B, long row) {
    if (B == 1) {
        static const int64_t still[11];
        const cr_repetition once = {.steps = 1, .batch = 1, .bytes = still};
        graph_0_of_one(arrays, &once);
        return;
    }
    char *slot[19];
    for (long k = 0; k < 11; k++) slot[k] = arrays[k];
    slot[11] = arena, arena += cr_apart(32);
    slot[12] = arena, arena += cr_apart((8 * B));
    slot[13] = arena, arena += cr_apart((8 * B));
    slot[14] = arena, arena += cr_apart((4 * B));
    slot[15] = arena, arena += cr_apart((4 * B));
    slot[16] = arena, arena += cr_apart(4);
    slot[17] = arena, arena += cr_apart((8 * B));
    slot[18] = arena, arena += cr_apart((8 * B));
    struct frame frame = {slot, constants, arena, B, row, 0};
    nest_0(&frame, 0);
    cr_parallel(nest_1, &frame, cr_chunks((104 * B), 262144, 1 * ((B + 1259) / 1260)));
    cr_parallel(nest_2, &frame, cr_chunks((6 * B), 65536, B));
    nest_3(&frame, 0);
    cr_parallel(nest_4, &frame, cr_chunks((32 * B), 65536, B));
    nest_4_after(&frame);
    nest_5(&frame, 0);
    cr_parallel(nest_6, &frame, cr_chunks((6 * B), 65536, B));
    cr_parallel(nest_7, &frame, cr_chunks((6 * B), 65536, B));
    cr_parallel(nest_8, &frame, cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16)) * cr_least(cr_chunks((4 * B) / cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16)), 262144, 1), 16 / cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16))));
    cr_parallel(nest_9, &frame, (cr_least(cr_chunks((4 * B), 262144, B / 128), cr_parts((2 * B) / 2, 16)) > 1 ? 1 : 0));
    cr_parallel(nest_10, &frame, cr_chunks((22 * B), 65536, B));
    nest_10_after(&frame);
    cr_parallel(nest_11, &frame, cr_chunks((6 * B), 65536, B));
    cr_parallel(nest_12, &frame, cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16)) * cr_least(cr_chunks((8 * B) / cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16)), 262144, 1), 16 / cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16))));
    cr_parallel(nest_13, &frame, (cr_least(cr_chunks((8 * B), 262144, B / 128), cr_parts((2 * B) / 4, 16)) > 1 ? 1 : 0));
}

/* The bytes that a run works in, and those that each thread works in besides. */
CR_EXPORT long cr_borrowed(long B) {
    return graph_0_borrowed(B);
}
CR_EXPORT long cr_arena(long B) {
    return graph_0_arena(B);
}

static void graph_0_often(char **arrays, char **constants, char *arena, const cr_repetition *how) {
    if (how->batch == 1 && cr_is_in_place(how)) graph_0_of_one(arrays, how); else
    cr_repeat_program(graph_0, arrays, constants, arena, how);
}

/* Runs the program once, or many times: pointers to operands, results and constants, working memory, and the rest. */
CR_EXPORT void cr_run(char **arrays, char *arena, long B) {
    char **constants = arrays + 11;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0(arrays, constants, arena, B, 0);
    cr_end(state);
}
CR_EXPORT void cr_repeat(char **arrays, char *arena, const cr_repetition *how) {
    char **constants = arrays + 11;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0_often(arrays, constants, arena, how);
    cr_end(state);
}

/* The same on the objects of a tuple; 1 and nothing done where they are not what its table says. */
CR_EXPORT long cr_call(const char *tuple) {
    const long *table = (const long *)cr_array_of(cr_item(tuple, 0))->data;
    char *arena = cr_array_of(cr_item(tuple, 1))->data, **constants = (char **)table[CR_CONSTANTS];
    char *arrays[11];
    if (!cr_take(tuple, 2, table, arrays, 6, 5)) return 1;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0(arrays, constants, arena, table[CR_BATCH], 0);
    cr_end(state);
    return 0;
}
CR_EXPORT long cr_call_often(const char *tuple) {
    const long *table = (const long *)cr_array_of(cr_item(tuple, 0))->data;
    char *arena = cr_array_of(cr_item(tuple, 1))->data, **constants = (char **)table[CR_CONSTANTS];
    char *arrays[11];
    if (!cr_take(tuple, 4, table, arrays, 6, 5)) return 1;
    cr_repetition how = *(const cr_repetition *)cr_array_of(cr_item(tuple, 2))->data;
    char *examples[6];
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    arena = cr_begin_repetition(&how, cr_array_of(cr_item(tuple, 3))->data, arrays, examples, arena);
    graph_0_often(arrays, constants, arena, &how);
    cr_end(state);
    return 0;
}
