/* Exercises the allocator without ONNX Runtime; built with a sanitizer by test_planned_allocator.py. */

#include "planned_allocator.c"

#include <stdio.h>

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);       \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

enum { THREADS = 8, RUNS = 500 };

/* a and b overlap in time, c takes a's bytes, d outlives the run */
static const dlc_entry ENTRIES[] = {{100, 0}, {200, 128}, {64, 0}, {50, ESCAPES}};

static dlc_plan *plan_of(uint64_t most_slabs) {
    dlc_plan *plan = dlc_plan_create(ENTRIES, 4, 384, most_slabs, NULL);
    CHECK(plan);
    return plan;
}

static dlc_counts counts_of(dlc_plan *plan) {
    dlc_counts counts;
    dlc_plan_counts(plan, &counts);
    return counts;
}

static void *get(size_t size) {
    void *address = dlc_allocate(size);
    CHECK(address && (uintptr_t)address % ALIGNMENT == 0);
    memset(address, 1, size);
    return address;
}

static void one_run(dlc_plan *plan, int slab) {
    CHECK(dlc_run_begin(plan, 0) == slab);
    char *a = get(100), *b = get(200);
    CHECK(!slab || b - a == 128);
    dlc_release(a);
    char *c = get(64), *d = get(50);
    CHECK(!slab || c == a);
    CHECK(!slab || d < a || d >= a + 384);
    dlc_release(b);
    dlc_release(c);
    dlc_run_end();
    dlc_release(d);
}

static void serves_at_the_planned_offsets(void) {
    dlc_plan *plan = plan_of(1);
    for (int i = 0; i < 3; i++) one_run(plan, 1);
    dlc_counts c = counts_of(plan);
    CHECK(c.runs == 3 && c.served == 9 && !c.misses && !c.fallbacks && !c.stranded);
    dlc_plan_destroy(plan);
    CHECK(!slabs);
}

static void a_range_in_use_is_not_given_twice(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, 0);
    char *a = get(100), *b = get(200), *c = get(64); /* a is not freed, so its bytes are not c's */
    CHECK(c < a || c >= a + 384);
    dlc_release(a);
    dlc_release(b);
    dlc_release(c);
    dlc_run_end();
    CHECK(counts_of(plan).served == 2 && counts_of(plan).misses == 1);
    dlc_plan_destroy(plan);
}

static void allocations_not_foreseen_are_misses_and_do_not_lose_the_thread(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, 0);
    char *a = get(100), *odd = get(77), *c = get(64); /* 77 is extra, 200 does not come */
    CHECK(c < a || c >= a + 384); /* for a is still in use */
    dlc_release(a);
    dlc_release(odd);
    dlc_release(c);
    char *more = get(64);
    dlc_release(more);
    dlc_run_end();
    CHECK(counts_of(plan).served == 1 && counts_of(plan).misses == 3);
    dlc_plan_destroy(plan);
}

static void plans_share_the_slabs_of_their_host(void) {
    const dlc_entry small[] = {{64, 0}}, large[] = {{512, 0}};
    dlc_plan *host = plan_of(1), *guest = dlc_plan_create(small, 1, 64, 9, host);
    CHECK(guest && !dlc_plan_create(large, 1, 512, 1, host));
    dlc_run_begin(host, 0);
    char *a = get(100);
    CHECK(dlc_run_begin(guest, 0) == 0); /* the one slab is in use */
    dlc_run_end();
    dlc_release(a);
    dlc_run_end();
    CHECK(dlc_run_begin(guest, 0) == 1);
    char *b = get(64);
    CHECK(b == a);
    dlc_plan_destroy(host);
    dlc_run_end();
    one_run(guest, 0); /* b strands it */
    dlc_release(b);
    CHECK(slabs && !slabs->next);
    CHECK(counts_of(guest).runs == 1 && counts_of(guest).fallbacks == 2 && counts_of(guest).stranded == 1);
    dlc_plan_destroy(guest);
    CHECK(!slabs);
}

static void smaller_shapes_take_the_entries_in_turn(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, SMALLER);
    char *a = get(64), *b = get(10);
    CHECK(b - a == 128);
    dlc_release(a);
    char *c = get(1);
    CHECK(c == a);
    dlc_release(b);
    dlc_release(c);
    dlc_release(get(50));
    dlc_run_end();
    CHECK(counts_of(plan).served == 3 && counts_of(plan).misses == 0);
    dlc_run_begin(plan, SMALLER);
    char *large = get(101), *next = get(100); /* the first is larger than its entry, which waits for the next */
    CHECK(next == a && (large < a || large >= a + 384));
    dlc_release(large);
    dlc_release(next);
    dlc_run_end();
    CHECK(counts_of(plan).served == 4 && counts_of(plan).misses == 1);
    dlc_plan_destroy(plan);
}

static void a_stranded_slab_rests_when_its_last_range_is_freed(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, 0);
    char *a = get(100), *b = get(200);
    dlc_run_end();
    CHECK(counts_of(plan).stranded == 1);
    one_run(plan, 0);
    dlc_release(a);
    one_run(plan, 0);
    memset(b, 2, 200);
    dlc_release(b);
    one_run(plan, 1);
    CHECK(counts_of(plan).fallbacks == 2 && counts_of(plan).runs == 2);
    dlc_plan_destroy(plan);
    CHECK(!slabs);
}

static void a_plan_lives_until_its_last_run_and_range_end(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, 0);
    dlc_plan_destroy(plan);
    char *a = get(100);
    dlc_run_end();
    memset(a, 3, 100);
    CHECK(slabs);
    dlc_release(a);
    CHECK(!slabs);

    plan = plan_of(0);
    CHECK(dlc_run_begin(plan, 0) == 0);
    dlc_plan_destroy(plan);
    dlc_run_end();
}

static void a_run_inside_a_run_has_a_slab_of_its_own(void) {
    dlc_plan *plan = plan_of(2);
    dlc_run_begin(plan, 0);
    char *a = get(100);
    one_run(plan, 1);
    dlc_run_begin(NULL, 0);
    char *plain = get(200);
    CHECK(plain < a || plain >= a + 384);
    dlc_release(plain);
    dlc_run_end();
    char *b = get(200);
    CHECK(b - a == 128);
    dlc_release(a);
    dlc_release(b);
    dlc_run_end();
    dlc_run_end(); /* one too many is none */
    dlc_plan_destroy(plan);
}

static void sizes_that_wrap_are_refused(void) {
    CHECK(!dlc_allocate(SIZE_MAX) && !dlc_allocate(SIZE_MAX - ALIGNMENT + 1));
}

static void events_are_in_order(void) {
    static const dlc_event wanted[] = {{0, 10}, {1, 20}, {0, 0}, {2, 30}, {2, 0}};
    void *before = get(5);
    CHECK(dlc_run_begin(NULL, 1) == 0);
    CHECK(dlc_allocate(0) == NULL);
    dlc_release(NULL);
    void *a = get(10), *b = get(20);
    dlc_release(a);
    dlc_release(before); /* allocated before the run */
    dlc_release(get(30));
    dlc_event found[5];
    CHECK(dlc_run_events(NULL, 0) == 5 && dlc_run_events(found, 5) == 5);
    CHECK(!memcmp(found, wanted, sizeof wanted));
    dlc_run_end();
    CHECK(dlc_run_events(found, 5) == 0);
    dlc_release(b);
}

static void entries_that_leave_the_arena_are_refused(void) {
    const dlc_entry high = {64, 384}, large = {512, 0}, wraps = {64, UINT64_MAX - 63};
    CHECK(!dlc_plan_create(&high, 1, 384, 1, NULL));
    CHECK(!dlc_plan_create(&large, 1, 384, 1, NULL));
    CHECK(!dlc_plan_create(&wraps, 1, 384, 1, NULL));
}

static void entries_between_lines_are_refused(void) {
    const dlc_entry odd = {64, 1}, escapes = {64, ESCAPES}; /* the escaping one's offset is no multiple either */
    CHECK(!dlc_entries_hold(&odd, 1, 384) && !dlc_plan_create(&odd, 1, 384, 1, NULL));
    CHECK(dlc_entries_hold(&escapes, 1, 384));
}

static void an_arena_that_cannot_be_had_falls_back(void) {
    const dlc_entry entry = {64, 0};
    dlc_plan *plan = dlc_plan_create(&entry, 1, UINT64_MAX / 2, 1, NULL);
    CHECK(dlc_run_begin(plan, 0) == 0);
    dlc_release(get(64));
    dlc_run_end();
    CHECK(counts_of(plan).fallbacks == 1);
    dlc_plan_destroy(plan);
}

static void *run_often(void *plan) {
    for (int i = 0; i < RUNS; i++) {
        int slab = dlc_run_begin(plan, i % 7 == 0);
        unsigned char *a = get(100), *b = get(200);
        memset(a, i, 100);
        memset(b, i + 1, 200);
        for (int j = 0; j < 100; j++) CHECK(a[j] == (unsigned char)i && b[j] == (unsigned char)(i + 1));
        dlc_release(a);
        if (i % 5) dlc_release(b);
        dlc_run_end();
        if (i % 5 == 0) dlc_release(b); /* after its run: no other run may have had its bytes meanwhile */
        CHECK(slab >= 0);
    }
    return NULL;
}

static void threads_have_slabs_of_their_own_or_none(void) {
    pthread_t threads[THREADS];
    dlc_plan *plan = plan_of(THREADS / 2), *other = plan_of(THREADS);
    for (int i = 0; i < THREADS; i++) CHECK(!pthread_create(&threads[i], NULL, run_often, i % 2 ? plan : other));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    dlc_counts a = counts_of(plan), b = counts_of(other);
    CHECK(a.runs + a.fallbacks == THREADS / 2 * RUNS && b.runs == THREADS / 2 * RUNS);
    CHECK(!a.misses && !b.misses && b.served == 2 * b.runs);
    dlc_plan_destroy(plan);
    dlc_plan_destroy(other);
    CHECK(!slabs);
}

static void *release_there(void *address) {
    dlc_release(address);
    return NULL;
}

static void another_thread_may_free(void) {
    dlc_plan *plan = plan_of(1);
    dlc_run_begin(plan, 0);
    char *a = get(100);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, release_there, a));
    pthread_join(thread, NULL);
    char *b = get(200), *c = get(64);
    CHECK(c == a && b == a + 128);
    dlc_release(b);
    CHECK(!pthread_create(&thread, NULL, release_there, c)); /* nothing is allocated after this one */
    pthread_join(thread, NULL);
    dlc_run_end();
    CHECK(!counts_of(plan).stranded && !counts_of(plan).misses);
    one_run(plan, 1);
    dlc_plan_destroy(plan);
}

/* ---- A runtime that registers what it is given, or refuses ------------------------------------------------------ */

static int environments, registrations;
static OrtStatus *refusal;

static OrtStatus *create_env(int severity, const char *name, OrtEnv **out) {
    (void)severity, (void)name;
    environments++;
    *out = (OrtEnv *)&environments;
    return NULL;
}

static void release_env(OrtEnv *env) {
    (void)env;
    environments--;
}

static OrtStatus *memory_info(int kind, int memory, OrtMemoryInfo **out) {
    (void)kind, (void)memory;
    *out = (OrtMemoryInfo *)&registrations;
    return NULL;
}

static OrtStatus *register_allocator(OrtEnv *env, OrtAllocator *given) {
    (void)env;
    CHECK(given->Info(given) == (OrtMemoryInfo *)&registrations);
    if (!refusal) registrations++;
    return refusal;
}

static void (*functions[200])(void);

static uint32_t newest = 9;

static OrtApi get_api(uint32_t version) { return version <= newest ? functions : NULL; }

static OrtStatus *create_status(int code, const char *message) {
    CHECK(code == 9 && !strcmp(message, "it is older than 1.9"));
    return (OrtStatus *)&newest;
}

static void a_runtime_that_is_too_old_is_told_so(void) {
    functions[0] = (void (*)(void))create_status;
    const OrtApiBase base = {get_api, NULL};
    newest = 8;
    CHECK(RegisterCustomOps(NULL, &base) == (OrtStatus *)&newest);
    newest = 9;
}

static void registers_once_and_passes_a_refusal_on(void) {
    functions[3] = (void (*)(void))create_env;
    functions[69] = (void (*)(void))memory_info;
    functions[92] = (void (*)(void))release_env;
    functions[176] = (void (*)(void))register_allocator;
    const OrtApiBase base = {get_api, NULL};
    refusal = (OrtStatus *)&refusal;
    CHECK(RegisterCustomOps(NULL, &base) == refusal && !environments);
    refusal = NULL;
    for (int i = 0; i < 2; i++) CHECK(!RegisterCustomOps(NULL, &base));
    CHECK(registrations == 1 && environments == 0);
}

int main(void) {
    serves_at_the_planned_offsets();
    a_range_in_use_is_not_given_twice();
    allocations_not_foreseen_are_misses_and_do_not_lose_the_thread();
    plans_share_the_slabs_of_their_host();
    smaller_shapes_take_the_entries_in_turn();
    sizes_that_wrap_are_refused();
    a_stranded_slab_rests_when_its_last_range_is_freed();
    a_plan_lives_until_its_last_run_and_range_end();
    a_run_inside_a_run_has_a_slab_of_its_own();
    events_are_in_order();
    entries_that_leave_the_arena_are_refused();
    entries_between_lines_are_refused();
    an_arena_that_cannot_be_had_falls_back();
    threads_have_slabs_of_their_own_or_none();
    another_thread_may_free();
    a_runtime_that_is_too_old_is_told_so();
    registers_once_and_passes_a_refusal_on();
    puts("all hold");
    return 0;
}
