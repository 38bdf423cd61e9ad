"""The C that the functions of every program have in common: what a nest is given, how work is cut into chunks, random words."""

from __future__ import annotations

from chainrule.engines.cpu.loop_ahead import AHEAD_TEXT

PRELUDE = (
    """
struct frame {
    char **slot;
    char **constants;
    char *scratch;
    long B;
    long row; /* the first of these rows in the whole batch */
    _Bool in_slab; /* there are other slabs of it, so one thread runs this one */
    struct ahead *ahead; /* in the body of a loop */
};

#define CR_INDEPENDENT _Pragma("GCC ivdep")
"""
    + AHEAD_TEXT
    + """
static inline long cr_least(long x, long y) { return x < y ? x : y; }
static inline long cr_round(long bytes) { return (bytes + 63) / 64 * 64; }
/* What an array takes with a line behind large ones: arrays of so many pages one after the other would begin at the same place in a
 * page, and what is read of them together would meet in a few sets of the first cache. */
static inline __attribute__((unused)) long cr_apart(long bytes) { return cr_round(bytes) + (bytes < 4096 ? 0 : 64); }
static inline long cr_cut(long extent, long chunk, long chunks) { return extent * chunk / chunks; }
static inline long cr_chunks(long work, long grain, long limit) {
    const long wanted = work / grain, most = cr_least(limit, 64);
    return wanted < 1 || most < 1 ? 1 : cr_least(wanted, most);
}
/* The steps of a loop that do not depend on each other: where there are few, one by one, so that threads divide what is in them. */
static inline __attribute__((unused)) void cr_steps(cr_task *step, void *frame, long count) {
    if (count < 4)
        for (long k = 0; k < count; k++) step(frame, k);
    else
        cr_parallel(step, frame, count);
}
/* Into how many shares the work within each of few ranges is divided. */
static inline long cr_shares(long work, long grain, long ranges, long limit) {
    const long wanted = cr_least(cr_least(work / grain, 32) / ranges, limit);
    return ranges >= 8 || wanted < 1 ? 1 : wanted;
}
/* Into how many slices the work of each of few chunks is divided: threads of different speeds finish together if chunks are small. */
static inline __attribute__((unused)) long cr_slices(long work, long grain, long chunks, long limit) {
    return cr_least(limit, 1 + cr_least(31, work / grain) / chunks);
}
/* The parts of a sum, a power of 2: as many again are worth it while what shares of fewer parts read again outweighs
 * the copies of the result; `again` is the size of the operand that they all read over that of the result. */
static inline long cr_parts(long again, long most) {
    long parts = 1;
    while (2 * parts <= most && again > parts * parts) parts *= 2;
    return parts;
}

/* Threefry-2x32 with 20 rounds (Salmon et al., 2011): the two words of the block of counter (block, stream). */
static inline __attribute__((always_inline)) void cr_random_block(uint32_t key0, uint32_t key1, uint32_t block,
                                                                  uint32_t stream, uint32_t *word0, uint32_t *word1) {
    const uint32_t schedule[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDAu};
    const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    uint32_t x0 = block + key0, x1 = stream + key1;
    _Pragma("GCC unroll 5")
    for (uint32_t group = 0; group < 5; group++) {
        _Pragma("GCC unroll 4")
        for (int round = 0; round < 4; round++) {
            const int r = rotations[group % 2][round];
            x0 += x1;
            x1 = (x1 << r) | (x1 >> (32 - r));
            x1 ^= x0;
        }
        x0 += schedule[(group + 1) % 3];
        x1 += schedule[(group + 2) % 3] + group + 1;
    }
    *word0 = x0;
    *word1 = x1;
}

static inline uint32_t cr_random_word(uint32_t key0, uint32_t key1, uint64_t place, uint32_t stream) {
    uint32_t word0, word1;
    cr_random_block(key0, key1, (uint32_t)(place / 2), stream, &word0, &word1);
    return place % 2 ? word1 : word0;
}

/* The words at `count` places from `place` on; returns where the first of them is written: `words` holds two more. */
static inline const uint32_t *cr_random_words(uint32_t key0, uint32_t key1, uint64_t place, uint32_t stream, long count,
                                              uint32_t *restrict words) {
    const long blocks = (long)(place % 2 + count + 1) / 2;
    CR_INDEPENDENT
    for (long k = 0; k < blocks; k++)
        cr_random_block(key0, key1, (uint32_t)(place / 2) + (uint32_t)k, stream, &words[2 * k], &words[2 * k + 1]);
    return words + place % 2;
}
"""
)
