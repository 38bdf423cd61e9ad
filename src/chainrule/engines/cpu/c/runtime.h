/* What every generated source begins with: how it reaches the worker threads of this process.
 *
 * The threads live in one library (runtime.c) whatever the number of generated libraries; cr_attach hands its functions
 * to each of them. Without it, as in a program of its own under a sanitizer, everything runs on the calling thread.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CR_EXPORT __attribute__((visibility("default"), used))

typedef void cr_task(void *context, long index);

typedef struct {
    void (*parallel)(cr_task *task, void *context, long count);
    void *(*scratch)(size_t bytes);
    void *(*borrow)(size_t bytes);
    void (*give_back)(void);
} cr_runtime;

/* A source compiled in several parts has one such pointer. */
#ifndef CR_SHARED
#define CR_SHARED static
#endif
CR_SHARED const cr_runtime *cr_attached __attribute__((unused));

#if !defined(CR_RUNTIME_ITSELF) && !defined(CR_PART)
CR_EXPORT void cr_attach(const cr_runtime *runtime) { cr_attached = runtime; }
#endif

/* Calls task(context, index) once for every index from 0 to count - 1, in any order and on any threads, and returns when
 * all calls have. Tasks must not depend on each other. A call from inside a task runs on the thread of that task. */
static __attribute__((noinline, unused)) void cr_parallel(cr_task *task, void *context, long count) {
    if (count > 1 && cr_attached) {
        cr_attached->parallel(task, context, count);
        return;
    }
    for (long index = 0; index < count; index++) task(context, index);
}

/* Memory of at least so many bytes that belongs to the calling thread, aligned to 64 bytes, with unknown content. The
 * next call on the same thread returns the same memory (or larger), so ask once per task. */
static inline __attribute__((unused)) void *cr_scratch(size_t bytes) {
    if (cr_attached) return cr_attached->scratch(bytes);
    static _Thread_local char *kept;
    static _Thread_local size_t size;
    if (size < bytes) {
        free(kept);
        size = (bytes + 63) / 64 * 64;
        kept = aligned_alloc(64, size);
        if (!kept) abort();
    }
    return kept;
}

/* Memory of the calling thread like that of cr_scratch, which stays the task's own until the task gives it back: what was borrowed
 * last goes back first. */
static inline __attribute__((unused)) void *cr_borrow(size_t bytes) {
    if (cr_attached) return cr_attached->borrow(bytes);
    void *memory = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!memory) abort();
    return memory;
}

static inline __attribute__((unused)) void cr_give_back(void *memory) {
    if (cr_attached) cr_attached->give_back();
    else free(memory);
}

/* Arithmetic as IEEE says, denormal numbers included, between cr_begin and cr_end: other libraries switch the calling
 * thread to flushing them to zero. Every function that Python calls is wrapped in these two. */
static inline __attribute__((unused)) uint64_t cr_begin(void) {
#if defined(__SSE__)
    uint64_t before = __builtin_ia32_stmxcsr();
    if (before != 0x1f80) __builtin_ia32_ldmxcsr(0x1f80);
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (before) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return before;
#else
    return 0;
#endif
}

static inline __attribute__((unused)) void cr_end(uint64_t before) {
#if defined(__SSE__)
    if (before != 0x1f80) __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
    if (before) __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}
