/* The worker threads of this process, shared by everything that the cpu engine generates.
 *
 * A region (one cr_parallel) gives every thread a range of the indices. A range is one 64-bit word, (next, end); a thread takes
 * indices from its own range and then from the others' by compare-and-swap, so a thread that the system is not
 * running holds nobody up. A successful swap proves that its region is still going on (the region ends only when every
 * index taken has been finished), and only then are the task and its context read. Idle threads spin, yielding the
 * processor now and then, and after a while sleep; sooner while other processes want the processors, because a sleeper
 * that is woken gets one at once, and a thread that yielded after everybody else.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

enum {
    LARGEST_POOL = 1024,
    LARGEST_REGION = 1 << 30,
    PAUSES_PER_YIELD = 64,
    PATIENCE = 20000, /* pauses before a thread that has nothing to do goes to sleep … */
    HASTE = 128,      /* … and on a busy machine */
    LINE = 128        /* bytes that processors pass on together */
};

typedef struct {
    _Alignas(LINE) _Atomic uint64_t word; /* next << 32 | end */
} range;

static struct {
    /* set by the thread that owns the region, before it fills the ranges */
    cr_task *task;
    void *context;
    _Atomic int sharing; /* threads taking part, the caller included */

    _Alignas(LINE) _Atomic long finished; /* indices finished by the workers of this region */
    _Atomic int owner_sleeps;

    _Alignas(LINE) _Atomic int occupied; /* a region is going on */
    _Atomic int wanted;                  /* threads to use, the caller included */
    int started;                         /* workers there are; changed only by the owner of a region */

    _Alignas(LINE) _Atomic int sleepers;
    pthread_mutex_t lock; /* guards going to sleep, nothing else */
    pthread_cond_t work, done;

    range ranges[LARGEST_POOL];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER,
          .wanted = 1};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether the processor went to somebody else for a while. */
static int yield_processor(void) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    sched_yield();
    clock_gettime(CLOCK_MONOTONIC, &after);
    return (int64_t)(after.tv_sec - before.tv_sec) * 1000000000 + (after.tv_nsec - before.tv_nsec) > 20000;
}

/* Patience comes back slowly: the machine will be busy for a while. */
static inline int recovered(int patience) { return patience < PATIENCE ? patience + patience / 4 : PATIENCE; }

/* --- taking indices --- */

/* Runs indices of one range until it is empty; returns how many. */
static long drain(range *from) {
    long completed = 0;
    uint64_t seen = atomic_load_explicit(&from->word, memory_order_acquire);
    for (;;) {
        uint32_t next = (uint32_t)(seen >> 32), end = (uint32_t)seen;
        if (next >= end) return completed;
        uint32_t taken = (end - next + 3) / 4; /* few swaps, yet something is left for idle threads to take */
        if (!atomic_compare_exchange_weak_explicit(&from->word, &seen, seen + ((uint64_t)taken << 32),
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        cr_task *task = pool.task;
        void *context = pool.context;
        for (uint32_t index = next; index < next + taken; index++) task(context, (long)index);
        completed += taken;
        seen = atomic_load_explicit(&from->word, memory_order_acquire);
    }
}

/* Runs indices of the own range, then of the others'. While `completed` is not reported the region cannot end, so all
 * ranges seen here belong to one region. */
static long drain_all(int own) {
    long completed = drain(&pool.ranges[own]);
    int sharing = atomic_load_explicit(&pool.sharing, memory_order_relaxed);
    if (own >= sharing) return completed; /* the pool has been made smaller */
    for (int step = 1; step < sharing; step++) completed += drain(&pool.ranges[(own + step) % sharing]);
    return completed;
}

/* --- workers --- */

static void report(long completed) {
    atomic_fetch_add(&pool.finished, completed);
    if (!atomic_load(&pool.owner_sleeps)) return;
    pthread_mutex_lock(&pool.lock);
    pthread_cond_signal(&pool.done);
    pthread_mutex_unlock(&pool.lock);
}

static int has_work(int thread) {
    uint64_t seen = atomic_load(&pool.ranges[thread].word);
    return (uint32_t)(seen >> 32) < (uint32_t)seen;
}

static int is_needed(int own) {
    int sharing = atomic_load(&pool.sharing);
    if (own >= sharing) return 0;
    for (int thread = 0; thread < sharing; thread++)
        if (has_work(thread)) return 1;
    return 0;
}

static void sleep_until_needed(int own) {
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleepers, 1);
    while (!is_needed(own)) pthread_cond_wait(&pool.work, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.lock);
}

/* Returns when there may be work, with the patience for the next time. */
static int wait_for_work(int own, int patience) {
    for (int spins = 1; !has_work(own); spins++) {
        if (spins % PAUSES_PER_YIELD) {
            pause_briefly();
        } else if (is_needed(own)) { /* the own range is empty, but others need help */
            break;
        } else if (spins >= patience) {
            sleep_until_needed(own);
            break;
        } else if (yield_processor()) {
            patience = HASTE;
        }
    }
    return recovered(patience);
}

static void *worker(void *argument) {
    int own = (int)(intptr_t)argument;
    cr_begin();
    for (int patience = PATIENCE;;) {
        patience = wait_for_work(own, patience);
        long completed = drain_all(own);
        if (completed) report(completed);
    }
    return NULL;
}

static void start_workers(int needed) {
    sigset_t all, before;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 8 << 20);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads that the host made */
    while (pool.started < needed) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker, (void *)(intptr_t)(pool.started + 1))) break;
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* --- regions --- */

static void wait_for_workers(long expected) {
    static int patience = PATIENCE;
    for (int spins = 1; atomic_load_explicit(&pool.finished, memory_order_acquire) != expected; spins++) {
        if (spins >= patience) {
            pthread_mutex_lock(&pool.lock);
            atomic_store(&pool.owner_sleeps, 1);
            while (atomic_load(&pool.finished) != expected) pthread_cond_wait(&pool.done, &pool.lock);
            atomic_store(&pool.owner_sleeps, 0);
            pthread_mutex_unlock(&pool.lock);
            break;
        }
        if (spins % PAUSES_PER_YIELD) pause_briefly();
        else if (yield_processor()) patience = HASTE;
    }
    patience = recovered(patience);
}

static void run_region(cr_task *task, void *context, long count, int sharing) {
    pool.task = task;
    pool.context = context;
    atomic_store(&pool.sharing, sharing);
    atomic_store_explicit(&pool.finished, 0, memory_order_relaxed);
    for (int thread = sharing - 1; thread >= 0; thread--) {
        uint64_t next = (uint64_t)count * thread / sharing, end = (uint64_t)count * (thread + 1) / sharing;
        atomic_store(&pool.ranges[thread].word, next << 32 | end);
    }
    if (atomic_load(&pool.sleepers)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.work);
        pthread_mutex_unlock(&pool.lock);
    }
    wait_for_workers(count - drain_all(0));
}

typedef struct {
    cr_task *task;
    void *context;
    long first;
} shifted;

static void run_shifted(void *argument, long index) {
    shifted *part = argument;
    part->task(part->context, part->first + index);
}

static void parallel(cr_task *task, void *context, long count) {
    int wanted = atomic_load_explicit(&pool.wanted, memory_order_relaxed);
    if (wanted == 1 || count == 1 || atomic_load_explicit(&pool.occupied, memory_order_relaxed) ||
        atomic_exchange(&pool.occupied, 1)) {
        /* inside a region, or beside one of another host thread */
        for (long index = 0; index < count; index++) task(context, index);
        return;
    }
    if (pool.started < wanted - 1) start_workers(wanted - 1);
    int sharing = pool.started + 1 < wanted ? pool.started + 1 : wanted;
    if (count <= LARGEST_REGION) {
        run_region(task, context, count, sharing);
    } else {
        for (long first = 0; first < count; first += LARGEST_REGION) {
            shifted part = {task, context, first};
            run_region(run_shifted, &part, count - first < LARGEST_REGION ? count - first : LARGEST_REGION, sharing);
        }
    }
    atomic_store_explicit(&pool.occupied, 0, memory_order_release);
}

/* --- memory of a thread --- */

typedef struct {
    size_t size;
    void *memory;
} buffer;

/* What belongs to one thread: the buffer of cr_scratch, and those that are lent, of which the first `lending` are in use. */
typedef struct {
    buffer scratch, *lent;
    int lending, buffers;
} possessions;

static pthread_key_t possessions_key;

static void free_possessions(void *argument) {
    possessions *kept = argument;
    for (int k = 0; k < kept->buffers; k++) free(kept->lent[k].memory);
    free(kept->lent);
    free(kept->scratch.memory);
    free(kept);
}

static void no_memory(size_t bytes) {
    fprintf(stderr, "chainrule: no memory for %zu bytes of working space of a thread\n", bytes);
    abort();
}

static possessions *own_possessions(void) {
    static _Thread_local possessions *kept;
    if (kept) return kept;
    kept = calloc(1, sizeof *kept);
    if (!kept) no_memory(sizeof *kept);
    pthread_setspecific(possessions_key, kept);
    return kept;
}

/* The memory of a buffer, of at least so many bytes. */
static void *memory_of(buffer *kept, size_t bytes) {
    if (kept->size < bytes) {
        free(kept->memory);
        kept->size = (bytes + 4095) / 4096 * 4096;
        kept->memory = aligned_alloc(64, kept->size);
        if (!kept->memory) no_memory(bytes);
    }
    return kept->memory;
}

static void *scratch(size_t bytes) { return memory_of(&own_possessions()->scratch, bytes); }

static void *borrow(size_t bytes) {
    possessions *kept = own_possessions();
    if (kept->lending == kept->buffers) {
        buffer *more = realloc(kept->lent, sizeof *more * (size_t)(kept->buffers + 4));
        if (!more) no_memory(bytes);
        memset(more + kept->buffers, 0, 4 * sizeof *more);
        kept->lent = more;
        kept->buffers += 4;
    }
    return memory_of(&kept->lent[kept->lending++], bytes);
}

static void give_back(void) { own_possessions()->lending--; }

/* --- the interface --- */

static const cr_runtime functions = {parallel, scratch, borrow, give_back};

/* A forked child has none of the workers: it begins with an empty pool and starts its own when it needs them. */
static void forget_workers(void) {
    pool.started = 0;
    atomic_store(&pool.occupied, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.owner_sleeps, 0);
    for (int thread = 0; thread < LARGEST_POOL; thread++) atomic_store(&pool.ranges[thread].word, 0);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
}

CR_EXPORT const cr_runtime *cr_start(void) {
    static int begun; /* called once, by the loader, under its lock */
    if (!begun && (pthread_key_create(&possessions_key, free_possessions) || pthread_atfork(NULL, NULL, forget_workers)))
        return NULL;
    begun = 1;
    return &functions;
}

CR_EXPORT void cr_use_threads(int threads) {
    atomic_store(&pool.wanted, threads < 1 ? 1 : threads > LARGEST_POOL ? LARGEST_POOL : threads);
}

CR_EXPORT int cr_used_threads(void) { return atomic_load(&pool.wanted); }
