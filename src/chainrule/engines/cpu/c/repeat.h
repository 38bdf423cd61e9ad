/* One program run many times over examples in memory. What is in which slot of the program's table of arrays changes from step
 * to step: the next rows, the next place of every stacked result, and the state, whose buffers change places where a
 * result could not be written over its operand.
 */
typedef void cr_program(char **arrays, char **constants, char *arena, long B);

typedef struct {
    int64_t slot, bytes;
} cr_moving; /* the pointer in the slot goes on by so many bytes after every step */

typedef struct {
    int64_t slot, bytes; /* of one example */
    char *examples;
} cr_gathered; /* before every step the slot's buffer is filled with rows; of a single row it gets the place */

typedef struct {
    int64_t slot, bytes;
    char *target;
} cr_reported; /* a stacked result that the program writes over an operand: it is copied out */

typedef struct {
    int64_t to, from;
} cr_exchanged; /* after every step, what was in slot `from` is in slot `to` */

typedef struct {
    int64_t steps, batch, slots;
    const int64_t *rows;
    const cr_moving *moving;
    const cr_gathered *gathered;
    const cr_reported *reported;
    const cr_exchanged *exchanged;
    int64_t movings, gathereds, reporteds, exchangeds;
    int64_t *homes; /* of every slot: the slot whose first buffer it has; kept up to date */
} cr_repetition;

CR_INLINE void cr_gather(char **arrays, const cr_repetition *how, const int64_t *rows) {
    for (long k = 0; k < how->gathereds; k++) {
        const cr_gathered at = how->gathered[k];
        if (how->batch == 1) {
            arrays[at.slot] = at.examples + rows[0] * at.bytes;
            continue;
        }
        char *to = arrays[at.slot];
        for (long n = 0; n < how->batch; n++) memcpy(to + n * at.bytes, at.examples + rows[n] * at.bytes, at.bytes);
    }
}

CR_INLINE void cr_exchange(char **arrays, const cr_repetition *how) {
    char *held[how->slots];
    int64_t homes[how->slots];
    memcpy(held, arrays, sizeof held);
    memcpy(homes, how->homes, sizeof homes);
    for (long k = 0; k < how->exchangeds; k++) {
        const cr_exchanged at = how->exchanged[k];
        arrays[at.to] = held[at.from];
        how->homes[at.to] = homes[at.from];
    }
}

CR_INLINE void cr_repeat_program(
    cr_program *program, char **arrays, char **constants, char *arena, const cr_repetition *how) {
    for (long step = 0; step < how->steps; step++) {
        if (how->gathereds) cr_gather(arrays, how, how->rows + step * how->batch);
        program(arrays, constants, arena, how->batch);
        for (long k = 0; k < how->reporteds; k++) {
            const cr_reported at = how->reported[k];
            memcpy(at.target + step * at.bytes, arrays[at.slot], at.bytes);
        }
        for (long k = 0; k < how->movings; k++) arrays[how->moving[k].slot] += how->moving[k].bytes;
        if (how->exchangeds) cr_exchange(arrays, how);
    }
}
