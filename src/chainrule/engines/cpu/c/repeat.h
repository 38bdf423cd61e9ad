/* One program run many times over examples in memory. What is in which slot of the program's table of arrays changes from step
 * to step: the next rows, the next place of every stacked result, and the state, whose buffers change places where a
 * result could not be written over its operand.
 */
typedef void cr_program(char **arrays, char **constants, char *arena, long B, long row);

typedef struct {
    int64_t to, from;
} cr_exchanged; /* after every step, what was in slot `from` is in slot `to` */

typedef struct {
    int64_t steps, batch, inputs, outputs;
    const int64_t *rows;  /* of all steps; NULL: one after the other */
    char **examples;      /* of every input that is gathered: where the examples are; else NULL */
    const int64_t *bytes; /* of every slot: of one example, or of the result of one step; 0 where it stays in its place */
    const int64_t *over;  /* of every output: the operand that it is written over although it is stacked; else -1 */
    const cr_exchanged *exchanged;
    int64_t exchanges;
    int64_t *homes; /* of every slot: the slot whose first buffer it has; kept up to date */
} cr_repetition;

/* Rows copied together: enough bytes that handing them to a thread costs little beside. */
enum { CR_GATHERED = 1 << 16 };

typedef struct {
    char *to;
    const char *from;
    const int64_t *rows;
    int64_t bytes, count, rows_in_chunk;
} cr_gathering;

static void cr_gather_rows(void *context, long chunk) {
    const cr_gathering *g = context;
    const int64_t first = chunk * g->rows_in_chunk, bytes = g->bytes;
    const int64_t last = first + g->rows_in_chunk < g->count ? first + g->rows_in_chunk : g->count;
    if (bytes == 4) /* labels: a copy of constant size is one instruction */
        for (int64_t n = first; n < last; n++) memcpy(g->to + n * 4, g->from + g->rows[n] * 4, 4);
    else if (bytes == 8)
        for (int64_t n = first; n < last; n++) memcpy(g->to + n * 8, g->from + g->rows[n] * 8, 8);
    else
        for (int64_t n = first; n < last; n++) memcpy(g->to + n * bytes, g->from + g->rows[n] * bytes, bytes);
}

/* The rows of one step: where they lie, or, if there are several here and there, in the buffer of their slot. */
CR_INLINE void cr_gather(char **arrays, const cr_repetition *how, long step) {
    const int64_t *rows = how->rows ? how->rows + step * how->batch : NULL;
    for (long k = 0; k < how->inputs; k++) {
        const char *examples = how->examples[k];
        const int64_t bytes = how->bytes[k];
        if (!examples) continue;
        if (!rows || how->batch == 1) {
            arrays[k] = (char *)examples + (rows ? rows[0] : step * how->batch) * bytes;
            continue;
        }
        const int64_t in_chunk = bytes ? (CR_GATHERED + bytes - 1) / bytes : how->batch;
        cr_gathering all = {arrays[k], examples, rows, bytes, how->batch, in_chunk};
        cr_parallel(cr_gather_rows, &all, (how->batch + in_chunk - 1) / in_chunk);
    }
}

CR_INLINE void cr_report(char **results, char **operands, const cr_repetition *how) {
    for (long k = 0; k < how->outputs; k++) {
        const int64_t bytes = how->bytes[how->inputs + k];
        if (how->over[k] >= 0) memcpy(results[k], operands[how->over[k]], bytes);
        results[k] += bytes;
    }
}

CR_INLINE void cr_exchange(char **arrays, const cr_repetition *how) {
    const long slots = how->inputs + how->outputs;
    char *held[slots];
    int64_t homes[slots];
    memcpy(held, arrays, sizeof held);
    memcpy(homes, how->homes, sizeof homes);
    for (long k = 0; k < how->exchanges; k++) {
        const cr_exchanged at = how->exchanged[k];
        arrays[at.to] = held[at.from];
        how->homes[at.to] = homes[at.from];
    }
}

CR_INLINE void cr_repeat_program(
    cr_program *program, char **arrays, char **constants, char *arena, const cr_repetition *how) {
    for (long step = 0; step < how->steps; step++) {
        cr_gather(arrays, how, step);
        program(arrays, constants, arena, how->batch, 0);
        cr_report(arrays + how->inputs, arrays, how);
        if (how->exchanges) cr_exchange(arrays, how);
    }
}

/* Completes a repetition whose arrays came in a tuple: `rows`, if not NULL, is to be theirs; buffers for the rows of a step are
 * taken from the arena, whose rest is returned. */
CR_INLINE char *cr_begin_repetition(cr_repetition *how, const char *rows, char **arrays, char **examples, char *arena) {
    if (how->rows) how->rows = (const int64_t *)rows;
    how->examples = examples;
    for (long k = 0; k < how->inputs; k++) {
        examples[k] = how->bytes[k] ? arrays[k] : NULL;
        if (!how->bytes[k] || !how->rows || how->batch == 1) continue;
        arrays[k] = arena;
        arena += (how->bytes[k] * how->batch + 63) / 64 * 64;
    }
    return arena;
}

/* Whether every state is written over itself and every result to its place, so that only addresses differ between steps. */
CR_INLINE int cr_is_in_place(const cr_repetition *how) {
    for (long k = 0; k < how->outputs; k++)
        if (how->over[k] >= 0) return 0;
    return !how->exchanges;
}
