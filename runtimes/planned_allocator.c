/* An allocator for ONNX Runtime that serves each allocation of a run at the offset a memory plan gives it.

   ONNX Runtime loads this file's library as one of custom operators and calls RegisterCustomOps, which registers the
   allocator with the environment of the process. Only sessions with "session.use_env_allocators" = "1" use it, and for
   them it is malloc until a thread opens a run (dlc_run_begin): from then on, until dlc_run_end, the k-th allocation
   of that thread is the k-th entry of the plan. Runs of other threads and sessions share nothing but malloc.

   A plan is a wish, never trusted: a range is handed out only if it is as large as planned, or smaller, and none of its
   bytes is in use. Otherwise malloc serves, and the miss is counted. A slab whose ranges outlive their run is set aside until
   the last one is freed.

   Locks: `registry` guards all that threads share. The ranges of a slab are not among it while a run has the slab: they
   are its thread's own, and what other threads free is noted, for that thread to find when it next allocates. */

#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define PUBLIC __attribute__((visibility("default")))

/* ---- What is used of ONNX Runtime's C API. Its table of functions only ever grows at its end. ------------------- */

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef void (*const *OrtApi)(void);

typedef struct OrtApiBase {
    OrtApi (*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

typedef struct OrtAllocator {
    uint32_t version;
    void *(*Alloc)(struct OrtAllocator *self, size_t size);
    void (*Free)(struct OrtAllocator *self, void *address);
    const OrtMemoryInfo *(*Info)(const struct OrtAllocator *self);
} OrtAllocator;

enum { API_VERSION = 9 }; /* the first with RegisterAllocator: ONNX Runtime 1.9 */
enum { CREATE_STATUS = 0, CREATE_ENV = 3, CREATE_CPU_MEMORY_INFO = 69, RELEASE_ENV = 92, REGISTER_ALLOCATOR = 176 };
enum { LOG_WARNING = 2, DEVICE_ALLOCATOR = 0, MEMORY_TYPE_DEFAULT = 0, NOT_IMPLEMENTED = 9 };

typedef OrtStatus *(*CreateStatus)(int code, const char *message);
typedef OrtStatus *(*CreateEnv)(int severity, const char *name, OrtEnv **out);
typedef OrtStatus *(*CreateCpuMemoryInfo)(int allocator, int memory, OrtMemoryInfo **out);
typedef void (*ReleaseEnv)(OrtEnv *env);
typedef OrtStatus *(*RegisterAllocator)(OrtEnv *env, OrtAllocator *allocator);

/* ---- Plans, slabs, runs ----------------------------------------------------------------------------------------- */

enum { ALIGNMENT = 64, WINDOW = 16 };
enum { TRACING = 1, SMALLER = 2 }; /* of a run: events are kept; shapes are no larger than those of the plan */
#define ESCAPES UINT64_MAX /* the offset of a buffer that outlives the run: never in the slab */

typedef struct {
    uint64_t size, offset;
} dlc_entry;

typedef struct {
    uint64_t runs;      /* ended, in a slab */
    uint64_t fallbacks; /* ended, without one: all were in use, or the system gave no memory */
    uint64_t served;    /* allocations at their offset */
    uint64_t misses;    /* allocations that malloc served, though not because they escape */
    uint64_t stranded;  /* runs that ended with ranges in use */
} dlc_counts;

typedef struct {
    uint64_t buffer, size; /* size 0: the buffer was freed */
} dlc_event;

typedef struct {
    char *start, *end;
} range;

typedef struct dlc_plan {
    dlc_entry *entries;
    size_t n;
    uint64_t arena;
    uint64_t most_slabs, slabs;
    uint64_t references; /* its owner, the runs under way, each slab in use, and the plans that it is the host of */
    dlc_counts counts;
    struct dlc_plan *host; /* whose slabs it uses: its own without one */
    struct slab *idle;
} dlc_plan;

typedef struct slab {
    dlc_plan *plan;
    char *base;
    range *live;
    size_t n, room;
    const void **freed; /* by other threads than the run's */
    _Atomic size_t freed_n;
    bool running, stranded;
    struct slab *next_idle, *next;
} slab;

typedef struct {
    void *address;
    uint64_t buffer;
} traced;

typedef struct run {
    dlc_plan *plan;
    slab *slab;
    size_t next; /* entry expected */
    uint64_t served, misses;
    bool tracing, smaller;
    dlc_event *events;
    traced *live;
    size_t events_n, events_room, live_n, live_room;
    uint64_t buffers;
    struct run *outer;
} run;

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static slab *slabs;
static _Thread_local run *current;

/* Makes room for one more element; false if there is no memory. */
static bool grow(void **array, size_t element, size_t n, size_t *room) {
    if (n < *room) return true;
    size_t wanted = *room ? 2 * *room : 64;
    void *larger = realloc(*array, wanted * element);
    if (!larger) return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* ---- Slabs ------------------------------------------------------------------------------------------------------ */

static bool within(const slab *s, const void *address) {
    return (const char *)address >= s->base && (const char *)address < s->base + s->plan->arena;
}

/* Makes room for one more range in use, and for its address among those that other threads free. */
static bool widen(slab *s) {
    if (s->n < s->room) return true;
    size_t wanted = s->room ? 2 * s->room : 64;
    pthread_mutex_lock(&registry);
    range *live = realloc(s->live, wanted * sizeof *live);
    if (live) s->live = live;
    const void **freed = realloc(s->freed, wanted * sizeof *freed);
    if (freed) s->freed = freed;
    if (live && freed) s->room = wanted;
    pthread_mutex_unlock(&registry);
    return live && freed;
}

static void give_back(slab *s, const void *address) {
    for (size_t i = s->n; i-- > 0;) {
        if (s->live[i].start != (const char *)address) continue;
        ASAN_POISON_MEMORY_REGION(s->live[i].start, (size_t)(s->live[i].end - s->live[i].start));
        s->live[i] = s->live[--s->n];
        return;
    }
}

/* The caller holds the registry. */
static void collect(slab *s) {
    size_t n = atomic_load_explicit(&s->freed_n, memory_order_relaxed);
    for (size_t i = 0; i < n; i++) give_back(s, s->freed[i]);
    atomic_store_explicit(&s->freed_n, 0, memory_order_relaxed);
}

/* Returns the range, or NULL if any of its bytes is in use. */
static void *take(slab *s, uint64_t offset, size_t size) {
    range wanted = {s->base + offset, s->base + offset + size};
    if (atomic_load_explicit(&s->freed_n, memory_order_relaxed)) {
        pthread_mutex_lock(&registry);
        collect(s);
        pthread_mutex_unlock(&registry);
    }
    if (!widen(s)) return NULL;
    for (size_t i = 0; i < s->n; i++)
        if (s->live[i].end > wanted.start && wanted.end > s->live[i].start) return NULL;
    s->live[s->n++] = wanted;
    ASAN_UNPOISON_MEMORY_REGION(wanted.start, size);
    return wanted.start;
}

/* The caller holds the registry. */
static void unlist(slab *s) {
    slab **link = &slabs;
    while (*link != s) link = &(*link)->next;
    *link = s->next;
}

static void destroy(slab *s) {
    ASAN_UNPOISON_MEMORY_REGION(s->base, s->plan->arena);
    munmap(s->base, s->plan->arena);
    free(s->live);
    free(s->freed);
    free(s);
}

/* The caller holds the registry. */
static void drop(dlc_plan *plan) {
    if (--plan->references) return;
    for (slab *s = plan->idle, *next; s; s = next) {
        next = s->next_idle;
        unlist(s);
        destroy(s);
    }
    dlc_plan *host = plan->host;
    free(plan->entries);
    free(plan);
    if (host) drop(host);
}

/* The caller holds the registry, and nobody uses a range of the slab. */
static void rest(slab *s) {
    s->stranded = false;
    s->next_idle = s->plan->idle;
    s->plan->idle = s;
    drop(s->plan);
}

/* The caller holds the registry. */
static slab *create(dlc_plan *plan) {
    slab *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->base = mmap(NULL, plan->arena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->base == MAP_FAILED) {
        free(s);
        return NULL;
    }
    ASAN_POISON_MEMORY_REGION(s->base, plan->arena);
    s->plan = plan;
    s->next = slabs;
    slabs = s;
    plan->slabs++;
    return s;
}

/* Returns a slab of the plan for one run, NULL if it has none to give. */
static slab *lease(dlc_plan *plan) {
    pthread_mutex_lock(&registry);
    dlc_plan *owner = plan->host ? plan->host : plan;
    slab *s = plan->arena ? owner->idle : NULL;
    if (s)
        owner->idle = s->next_idle;
    else if (plan->arena && owner->slabs < owner->most_slabs)
        s = create(owner);
    plan->references++;
    if (s) {
        s->running = true;
        owner->references++;
    }
    pthread_mutex_unlock(&registry);
    return s;
}

/* ---- Allocating ------------------------------------------------------------------------------------------------- */

/* Aligned memory beside the slabs. A block that was freed serves the next of its size, which one of posix_memalign need
   not: it is asked for with room to align it, and cut to size, so that outputs creep through the heap. */
static void *apart(size_t size) {
    if (size > SIZE_MAX - ALIGNMENT) return NULL;
    char *block = malloc(size + ALIGNMENT);
    if (!block) return NULL;
    char *address = block + ALIGNMENT - (uintptr_t)block % ALIGNMENT;
    ((void **)address)[-1] = block; /* malloc aligns to two words, so that one has room */
    return address;
}

static void free_apart(void *address) { free(((void **)address)[-1]); }

/* Returns the next entry of this size, or n: a few allocations more or fewer than planned do not lose the thread. In a
   run of smaller shapes sizes tell nothing, and the next entry is the one. */
static size_t find(const run *r, size_t size) {
    const dlc_plan *plan = r->plan;
    if (r->smaller) return r->next < plan->n && plan->entries[r->next].size >= size ? r->next : plan->n;
    for (size_t i = r->next; i < plan->n && i < r->next + WINDOW; i++)
        if (plan->entries[i].size == size) return i;
    return plan->n;
}

static void *planned(run *r, size_t size) {
    size_t i = find(r, size);
    void *address = NULL;
    if (i < r->plan->n) {
        r->next = i + 1;
        if (r->plan->entries[i].offset == ESCAPES) return NULL;
        address = take(r->slab, r->plan->entries[i].offset, size);
    }
    *(address ? &r->served : &r->misses) += 1;
    return address;
}

static void record(run *r, uint64_t buffer, uint64_t size) {
    if (!grow((void **)&r->events, sizeof(dlc_event), r->events_n, &r->events_room)) abort();
    r->events[r->events_n++] = (dlc_event){buffer, size};
}

static void record_allocation(run *r, void *address, size_t size) {
    if (!grow((void **)&r->live, sizeof(traced), r->live_n, &r->live_room)) abort();
    r->live[r->live_n++] = (traced){address, r->buffers};
    record(r, r->buffers++, size);
}

static void record_free(run *r, void *address) {
    for (size_t i = r->live_n; i-- > 0;) {
        if (r->live[i].address != address) continue;
        record(r, r->live[i].buffer, 0);
        r->live[i] = r->live[--r->live_n];
        return;
    }
}

static void *allocate(OrtAllocator *self, size_t size) {
    (void)self;
    if (!size) return NULL;
    run *r = current;
    void *address = r && r->slab ? planned(r, size) : NULL;
    if (!address && !(address = apart(size))) return NULL;
    if (r && r->tracing) record_allocation(r, address, size);
    return address;
}

/* Gives a range of a slab back that no run of this thread holds; false if the address is of no slab. */
static bool give_back_elsewhere(void *address) {
    pthread_mutex_lock(&registry);
    slab *s = slabs;
    while (s && !within(s, address)) s = s->next;
    if (s && s->running) {
        size_t n = atomic_load_explicit(&s->freed_n, memory_order_relaxed);
        if (n < s->room) s->freed[n] = address; /* it always is, unless a range is freed twice */
        atomic_store_explicit(&s->freed_n, n < s->room ? n + 1 : n, memory_order_relaxed);
    } else if (s) {
        give_back(s, address);
        if (!s->n && s->stranded) rest(s);
    }
    pthread_mutex_unlock(&registry);
    return s != NULL;
}

static void release(OrtAllocator *self, void *address) {
    (void)self;
    if (!address) return;
    run *r = current;
    if (r && r->tracing) record_free(r, address);
    if (r && r->slab && within(r->slab, address))
        give_back(r->slab, address);
    else if (!give_back_elsewhere(address))
        free_apart(address);
}

/* ---- What dlc calls --------------------------------------------------------------------------------------------- */

/* Whether every entry that does not escape lies aligned within the arena: kernels read vectors without asking. */
PUBLIC bool dlc_entries_hold(const dlc_entry *entries, size_t n, uint64_t arena) {
    for (size_t i = 0; i < n; i++) {
        if (entries[i].offset == ESCAPES) continue;
        if (entries[i].offset % ALIGNMENT) return false;
        if (entries[i].size > arena || entries[i].offset > arena - entries[i].size) return false;
    }
    return true;
}

/* A copy of the entries, of a slab of `arena` bytes each for at most `most_slabs` runs at a time. With a `host`, whose
   arena is no smaller, its slabs are used. NULL: no memory, or entries that do not hold. */
PUBLIC dlc_plan *dlc_plan_create(const dlc_entry *entries, size_t n, uint64_t arena, uint64_t most_slabs,
                                 dlc_plan *host) {
    if (!dlc_entries_hold(entries, n, arena) || (host && host->arena < arena)) return NULL;
    dlc_plan *plan = calloc(1, sizeof *plan);
    dlc_entry *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!plan || !copy) {
        free(plan);
        free(copy);
        return NULL;
    }
    if (n) memcpy(copy, entries, n * sizeof *copy);
    *plan = (dlc_plan){
        .entries = copy, .n = n, .arena = arena, .most_slabs = most_slabs, .references = 1, .host = host};
    if (host) {
        pthread_mutex_lock(&registry);
        host->references++;
        pthread_mutex_unlock(&registry);
    }
    return plan;
}

/* Runs under way go on; their slabs are unmapped when the last of their ranges is freed. */
PUBLIC void dlc_plan_destroy(dlc_plan *plan) {
    pthread_mutex_lock(&registry);
    drop(plan);
    pthread_mutex_unlock(&registry);
}

PUBLIC void dlc_plan_counts(dlc_plan *plan, dlc_counts *out) {
    pthread_mutex_lock(&registry);
    *out = plan->counts;
    pthread_mutex_unlock(&registry);
}

/* Opens a run on this thread, inside one that is open if there is one; `plan` may be NULL. `how`: TRACING, SMALLER.
   Returns 1 with a slab, 0 without, -1 if there is no memory and nothing was opened. */
PUBLIC int dlc_run_begin(dlc_plan *plan, int how) {
    run *r = calloc(1, sizeof *r);
    if (!r) return -1;
    r->plan = plan;
    r->tracing = how & TRACING;
    r->smaller = how & SMALLER;
    r->slab = plan ? lease(plan) : NULL;
    r->outer = current;
    current = r;
    return r->slab != NULL;
}

/* Copies the first `room` events of this thread's run; returns how many there are. */
PUBLIC size_t dlc_run_events(dlc_event *out, size_t room) {
    if (!current) return 0;
    size_t n = current->events_n;
    if (n && room) memcpy(out, current->events, (n < room ? n : room) * sizeof *out);
    return n;
}

/* Counts a run that ends. The caller holds the registry; the slab, or the plan, may be gone afterwards. */
static void settle(run *r) {
    dlc_counts *c = &r->plan->counts;
    if (r->slab) {
        collect(r->slab);
        r->slab->running = false;
        r->slab->stranded = r->slab->n > 0;
        c->runs++;
        c->served += r->served;
        c->misses += r->misses;
        c->stranded += r->slab->stranded;
        if (!r->slab->stranded) rest(r->slab);
    } else {
        c->fallbacks++;
    }
    drop(r->plan);
}

/* Closes this thread's run. */
PUBLIC void dlc_run_end(void) {
    run *r = current;
    if (!r) return;
    current = r->outer;
    pthread_mutex_lock(&registry);
    if (r->plan) settle(r);
    pthread_mutex_unlock(&registry);
    free(r->events);
    free(r->live);
    free(r);
}

/* ---- What ONNX Runtime calls ------------------------------------------------------------------------------------ */

static OrtMemoryInfo *cpu;

static const OrtMemoryInfo *info(const OrtAllocator *self) {
    (void)self;
    return cpu;
}

static OrtAllocator allocator = {API_VERSION, allocate, release, info};

/* Registers the allocator, once in a process. A status that is not NULL refuses the library, with the reason. */
PUBLIC OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;
    static bool registered;
    (void)options;
    OrtApi api = base->GetApi(API_VERSION);
    if (!api) return ((CreateStatus)base->GetApi(1)[CREATE_STATUS])(NOT_IMPLEMENTED, "it is older than 1.9");
    OrtEnv *env = NULL;
    OrtStatus *status = NULL;
    pthread_mutex_lock(&registering);
    if (!registered) {
        status = ((CreateEnv)api[CREATE_ENV])(LOG_WARNING, "dlc", &env);
        if (!status && !cpu)
            status = ((CreateCpuMemoryInfo)api[CREATE_CPU_MEMORY_INFO])(DEVICE_ALLOCATOR, MEMORY_TYPE_DEFAULT, &cpu);
        if (!status) status = ((RegisterAllocator)api[REGISTER_ALLOCATOR])(env, &allocator);
        if (env) ((ReleaseEnv)api[RELEASE_ENV])(env);
        registered = !status;
    }
    pthread_mutex_unlock(&registering);
    return status;
}

/* The allocator as ONNX Runtime sees it, for tests without it. */
PUBLIC void *dlc_allocate(size_t size) { return allocate(&allocator, size); }
PUBLIC void dlc_release(void *address) { release(&allocator, address); }
