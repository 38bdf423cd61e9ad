typedef int32_t cr_float32x4_places __attribute__((vector_size(16)));
static __attribute__((unused)) void cr_transpose_float32x4(
    float *restrict to, long to_step, const float *restrict from, long from_step, long columns, long rows) {
    if (columns < 4 || rows < 4) {
        for (long k = 0; k < columns; k++)
            for (long l = 0; l < 4; l++) to[k * to_step + l] = l < rows ? from[l * from_step + k] : 0;
        return;
    }
    cr_float32x4 r0 = *(const cr_float32x4_anywhere *)(from + 0 * from_step);
    cr_float32x4 r1 = *(const cr_float32x4_anywhere *)(from + 1 * from_step);
    cr_float32x4 r2 = *(const cr_float32x4_anywhere *)(from + 2 * from_step);
    cr_float32x4 r3 = *(const cr_float32x4_anywhere *)(from + 3 * from_step);
    const cr_float32x4 s0 = CR_MACROS(r0, r2, cr_float32x4_places, 0, 1, 4, 5);
    const cr_float32x4 s1 = CR_MACROS(r0, r2, cr_float32x4_places, 2, 3, 6, 7);
    const cr_float32x4 s2 = CR_MACROS(r1, r3, cr_float32x4_places, 0, 1, 4, 5);
    const cr_float32x4 s3 = CR_MACROS(r1, r3, cr_float32x4_places, 2, 3, 6, 7);
    const cr_float32x4 s4 = CR_MACROS(s0, s2, cr_float32x4_places, 0, 4, 2, 6);
    const cr_float32x4 s5 = CR_MACROS(s0, s2, cr_float32x4_places, 1, 5, 3, 7);
    const cr_float32x4 s6 = CR_MACROS(s1, s3, cr_float32x4_places, 0, 4, 2, 6);
    const cr_float32x4 s7 = CR_MACROS(s1, s3, cr_float32x4_places, 1, 5, 3, 7);
    *(cr_float32x4_anywhere *)(to + 0 * to_step) = s4;
    *(cr_float32x4_anywhere *)(to + 1 * to_step) = s5;
    *(cr_float32x4_anywhere *)(to + 2 * to_step) = s6;
    *(cr_float32x4_anywhere *)(to + 3 * to_step) = s7;
}

/* hidden forward: hidden_7 = pad(params_hidden_weight_0) */
static void nest_0(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const params_hidden_weight_0 = (float *)frame->slot[0];
    float *restrict const hidden_7 = (float *)frame->slot[7];
    const long low = 0, high = 2;
    for (long i0 = low; i0 < high; i0++) {
        CR_INDEPENDENT
        for (long i1 = 0; i1 < 4; i1++) {
            const _Bool v0 = (i1) < 2;
            const float v1 = v0 ? params_hidden_weight_0[2 * i0 + i1] : 0;
            const float v2 = v0 ? v1 : 0.0f;
            hidden_7[4 * i0 + i1] = v2;
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

/* hidden forward: result = x_4 @ hidden_7;
   hidden_8 = (1.0 / (1.0 + exp(neg((result + params_hidden_bias_1))))) */
static void nest_1(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const x_4 = (float *)frame->slot[4];
    float *restrict const hidden_7 = (float *)frame->slot[7];
    float *restrict const params_hidden_bias_1 = (float *)frame->slot[1];
    float *restrict const hidden_8 = (float *)frame->slot[8];
    const long chunks = cr_chunks(416, 262144, 1), units = 1;
    const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);
    for (long unit = low; unit < high; unit++) {
        const long block = 0;
        const long panel = 0;
        const long last_tile = cr_least((block + 1) * 1, 1);
        for (long tile = block * 1; tile < last_tile; tile++) {
            const long k0 = tile * 4 / 1;
            float finished[16] __attribute__((aligned(64)));
            tile_c2467e8850(x_4 + (2 * k0), hidden_7 + (0), finished, 0, 0, 1, 1, B);
            const long width = cr_least(4, 2 - (0));
            for (long r0 = 0; r0 < 4; r0++) {
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
                    hidden_8[2 * this_k0 + place] = v6;
                }
            }
        }
    }
}

static void tile_9419d8ce05(const float *restrict x, const float *restrict y, float *restrict to, long first, long end, _Bool fresh, _Bool last, long B) {
    cr_float32x4 c0 = {0};
    {
        const float x0 = x[0];
        cr_float32x4 y0 = *(const cr_float32x4_anywhere *)(y + (0));
        c0 += x0 * y0;
        const float x1 = x[1];
        cr_float32x4 y1 = *(const cr_float32x4_anywhere *)(y + (4));
        c0 += x1 * y1;
    }
    *(cr_float32x4_anywhere *)(to + 0) = c0;
}

/* hidden_8 in vectors of 4 */
static void nest_2(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const hidden_8 = (float *)frame->slot[8];
    float *restrict const vectors_y_0 = (float *)(frame->scratch + 0);
    for (long start = 0; start < 2; start += 4) {
        cr_transpose_float32x4(vectors_y_0 + (4 * start), 4, hidden_8 + (start), 2, cr_least(4, 2 - start), cr_least(4, 4 - (0)));
    }
}

/* output forward, step forward: result = hidden_8 @ params_output_weight_2;
   t_7 = reduce_sum((((1.0 / (1.0 + exp(neg(...)))) - y_5) * ((1.0 / (1.0 + exp(neg(...)))) - y_5))) */
static void nest_3(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const params_output_weight_2 = (float *)frame->slot[2];
    float *restrict const params_output_bias_3 = (float *)frame->slot[3];
    float *restrict const y_5 = (float *)frame->slot[5];
    float *restrict const vectors_y_0 = (float *)(frame->scratch + 0);
    float *restrict const side_0 = (float *)(frame->scratch + 64);
    const long chunks = cr_chunks(104, 262144, 1), units = 1;
    const long low = cr_cut(units, chunk, chunks), high = cr_cut(units, chunk + 1, chunks);
    float *const own_0 = side_0 + chunk * 64;
    for (long k = 0; k < 64; k++) own_0[k] = 0;
    for (long unit = low; unit < high; unit++) {
        const long block = 0;
        const long panel = 0;
        float finished[4] __attribute__((aligned(64)));
        tile_9419d8ce05(params_output_weight_2 + (0), vectors_y_0 + (0), finished, 0, 0, 1, 1, B);
        const long width = 4;
        CR_INDEPENDENT
        for (long l = 0; l < width; l++) {
            const long place = l;
            const float v0 = finished[0 * (4) + l];
            const float v1 = params_output_bias_3[0];
            const float v2 = v0 + v1;
            const float v3 = -v2;
            const float v4 = cr_exp_f32(v3);
            const float v5 = 1.0f + v4;
            const float v6 = 1.0f / v5;
            const float v7 = y_5[place];
            const float v8 = v6 - v7;
            const float v9 = v8 * v8;
            own_0[l] += v9;
        }
    }
}

static void nest_3_after(void *context) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const t_7 = (float *)frame->slot[7];
    float *restrict const side_0 = (float *)(frame->scratch + 64);
    const long chunks = cr_chunks(104, 262144, 1);
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
    for (long k = 0; k < 1; k++) t_7[k] = side_0[k];
}

/* step forward: t_6 = (0.5 * (t_7 / 4.0)) */
static void nest_4(void *context, long chunk) {
    struct frame *const frame = context;
    const long B = frame->B;
    float *restrict const t_7 = (float *)frame->slot[7];
    float *restrict const t_6 = (float *)frame->slot[6];
    const float v0 = t_7[0];
    const float v1 = v0 / 4.0f;
    const float v2 = 0.5f * v1;
    t_6[0] = v2;
}

/* One example: loss, element by element. */
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
        float v12 = ((const float *)(a4 + row * b4))[2];
        float v13 = ((const float *)(a4 + row * b4))[3];
        float v14 = ((const float *)(a4 + row * b4))[4];
        float v15 = ((const float *)(a4 + row * b4))[5];
        float v16 = ((const float *)(a4 + row * b4))[6];
        float v17 = ((const float *)(a4 + row * b4))[7];
        float v18 = ((const float *)(a5 + row * b5))[0];
        float v19 = ((const float *)(a5 + row * b5))[1];
        float v20 = ((const float *)(a5 + row * b5))[2];
        float v21 = ((const float *)(a5 + row * b5))[3];
        /* hidden forward */
        const float v22 = v5 + (v10 * v1);
        const float v23 = v22 + (v11 * v3);
        const float v24 = v6 + (v10 * v2);
        const float v25 = v24 + (v11 * v4);
        const float v26 = v5 + (v12 * v1);
        const float v27 = v26 + (v13 * v3);
        const float v28 = v6 + (v12 * v2);
        const float v29 = v28 + (v13 * v4);
        const float v30 = v5 + (v14 * v1);
        const float v31 = v30 + (v15 * v3);
        const float v32 = v6 + (v14 * v2);
        const float v33 = v32 + (v15 * v4);
        const float v34 = v5 + (v16 * v1);
        const float v35 = v34 + (v17 * v3);
        const float v36 = v6 + (v16 * v2);
        const float v37 = v36 + (v17 * v4);
        const float v38 = -v23;
        const float v39 = -v25;
        const float v40 = -v27;
        const float v41 = -v29;
        const float v42 = -v31;
        const float v43 = -v33;
        const float v44 = -v35;
        const float v45 = -v37;
        const float v46 = cr_alone_exp_f32(v38);
        const float v47 = cr_alone_exp_f32(v39);
        const float v48 = cr_alone_exp_f32(v40);
        const float v49 = cr_alone_exp_f32(v41);
        const float v50 = cr_alone_exp_f32(v42);
        const float v51 = cr_alone_exp_f32(v43);
        const float v52 = cr_alone_exp_f32(v44);
        const float v53 = cr_alone_exp_f32(v45);
        const float v54 = 1.0f + v46;
        const float v55 = 1.0f + v47;
        const float v56 = 1.0f + v48;
        const float v57 = 1.0f + v49;
        const float v58 = 1.0f + v50;
        const float v59 = 1.0f + v51;
        const float v60 = 1.0f + v52;
        const float v61 = 1.0f + v53;
        const float v62 = 1.0f / v54;
        const float v63 = 1.0f / v55;
        const float v64 = 1.0f / v56;
        const float v65 = 1.0f / v57;
        const float v66 = 1.0f / v58;
        const float v67 = 1.0f / v59;
        const float v68 = 1.0f / v60;
        const float v69 = 1.0f / v61;
        /* output forward */
        const float v70 = v9 + (v62 * v7);
        const float v71 = v70 + (v63 * v8);
        const float v72 = v9 + (v64 * v7);
        const float v73 = v72 + (v65 * v8);
        const float v74 = v9 + (v66 * v7);
        const float v75 = v74 + (v67 * v8);
        const float v76 = v9 + (v68 * v7);
        const float v77 = v76 + (v69 * v8);
        const float v78 = -v71;
        const float v79 = -v73;
        const float v80 = -v75;
        const float v81 = -v77;
        const float v82 = cr_alone_exp_f32(v78);
        const float v83 = cr_alone_exp_f32(v79);
        const float v84 = cr_alone_exp_f32(v80);
        const float v85 = cr_alone_exp_f32(v81);
        const float v86 = 1.0f + v82;
        const float v87 = 1.0f + v83;
        const float v88 = 1.0f + v84;
        const float v89 = 1.0f + v85;
        const float v90 = 1.0f / v86;
        const float v91 = 1.0f / v87;
        const float v92 = 1.0f / v88;
        const float v93 = 1.0f / v89;
        /* step forward */
        const float v94 = v90 - v18;
        const float v95 = v91 - v19;
        const float v96 = v92 - v20;
        const float v97 = v93 - v21;
        const float v98 = v94 * v94;
        const float v99 = v95 * v95;
        const float v100 = v96 * v96;
        const float v101 = v97 * v97;
        const float v102 = v98 + v99;
        const float v103 = v102 + v100;
        const float v104 = v103 + v101;
        const float v105 = v104 / 4.0f;
        const float v106 = 0.5f * v105;
        ((float *)(a6 + step * b6))[0] = v106;
    }
}

static long graph_0_arena(long B) {
    long own = 0, most = 16448;
    own += cr_apart(32);
    own += cr_apart(32);
    return own + cr_round(most) + 64;
}
static long graph_0_borrowed(long B) {
    long most = 0;
    return most;
}

static void graph_0(char **arrays, char **constants, char *arena, long B, long row) {
    if (B == 1) {
        static const int64_t still[7];
        const cr_repetition once = {.steps = 1, .batch = 1, .bytes = still};
        graph_0_of_one(arrays, &once);
        return;
    }
    char *slot[9];
    for (long k = 0; k < 7; k++) slot[k] = arrays[k];
    slot[7] = arena, arena += cr_apart(32);
    slot[8] = arena, arena += cr_apart(32);
    struct frame frame = {slot, constants, arena, B, row, 0};
    nest_0(&frame, 0);
    cr_parallel(nest_1, &frame, cr_chunks(416, 262144, 1));
    nest_2(&frame, 0);
    cr_parallel(nest_3, &frame, cr_chunks(104, 262144, 1));
    nest_3_after(&frame);
    nest_4(&frame, 0);
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
    char **constants = arrays + 7;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0(arrays, constants, arena, B, 0);
    cr_end(state);
}
CR_EXPORT void cr_repeat(char **arrays, char *arena, const cr_repetition *how) {
    char **constants = arrays + 7;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0_often(arrays, constants, arena, how);
    cr_end(state);
}

/* The same on the objects of a tuple; 1 and nothing done where they are not what its table says. */
CR_EXPORT long cr_call(const char *tuple) {
    const long *table = (const long *)cr_array_of(cr_item(tuple, 0))->data;
    char *arena = cr_array_of(cr_item(tuple, 1))->data, **constants = (char **)table[CR_CONSTANTS];
    char *arrays[7];
    if (!cr_take(tuple, 2, table, arrays, 6, 1)) return 1;
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    graph_0(arrays, constants, arena, table[CR_BATCH], 0);
    cr_end(state);
    return 0;
}
CR_EXPORT long cr_call_often(const char *tuple) {
    const long *table = (const long *)cr_array_of(cr_item(tuple, 0))->data;
    char *arena = cr_array_of(cr_item(tuple, 1))->data, **constants = (char **)table[CR_CONSTANTS];
    char *arrays[7];
    if (!cr_take(tuple, 4, table, arrays, 6, 1)) return 1;
    cr_repetition how = *(const cr_repetition *)cr_array_of(cr_item(tuple, 2))->data;
    char *examples[6];
    const uint64_t state = cr_begin();
    arena += -(uintptr_t)arena % 64;
    arena = cr_begin_repetition(&how, cr_array_of(cr_item(tuple, 3))->data, arrays, examples, arena);
    graph_0_often(arrays, constants, arena, &how);
    cr_end(state);
    return 0;
}
