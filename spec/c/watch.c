/* Watches, one step after another: what is readable when, what an advance pays, forks, files. The core's sources are
 * included here, to see into a state, and so that watch_pipe.c can build them with a pipe in place of an eventfd. Races
 * between threads: watch_threads. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

/* Something is done just before one of the steps of watch.c: its atomic operations and what it does with its lock. */
static long steps_left = -1; /* below 0: nothing is to be done */
static void (*at_step)(void);

static void step(void) {
    if (steps_left < 0 || steps_left-- > 0) return;
    at_step();
}

#undef atomic_load
#undef atomic_store
#undef atomic_fetch_or
#undef atomic_fetch_and
#define atomic_load(object)             (step(), atomic_load_explicit(object, memory_order_seq_cst))
#define atomic_store(object, value)     (step(), atomic_store_explicit(object, value, memory_order_seq_cst))
#define atomic_fetch_or(object, value)  (step(), atomic_fetch_or_explicit(object, value, memory_order_seq_cst))
#define atomic_fetch_and(object, value) (step(), atomic_fetch_and_explicit(object, value, memory_order_seq_cst))
#define pthread_mutex_lock(lock)        (step(), pthread_mutex_lock(lock))
#define pthread_mutex_unlock(lock)      (step(), pthread_mutex_unlock(lock))

#include "../../csrc/core/watch.c"

#include "state_files.h"

static tidemark_state *state; /* shards 0, 1, 2, in memory */

static void begin(void) {
    static const uint32_t shards[] = {0, 1, 2};
    if (tidemark_state_new(shards, 3, &state, NULL) < 0) exit(1);
}

static tidemark_watch *watch(uint32_t shard, int64_t seqno) {
    tidemark_watch *made = NULL;
    CHECK_INT(tidemark_state_watch(state, shard, seqno, &made, &failure), 0);
    if (made == NULL) exit(1);
    return made;
}

static int fd_of(tidemark_watch *watch) {
    int fd = tidemark_watch_fd(watch, &failure);
    CHECK(fd >= 0);
    return fd;
}

static bool readable(int fd) {
    struct pollfd poll_fd = {fd, POLLIN, 0};
    return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN) != 0;
}

static uint32_t flags(uint32_t shard) {
    return atomic_load(&tidemark_state_slot(state, shard)->waiter);
}

static void advance(uint32_t shard, int64_t seqno) {
    CHECK_INT(tidemark_state_advance(state, shard, seqno), 1);
}

static void test_there_one_short_and_beyond(void) {
    begin();
    advance(1, 10);
    for (int64_t seqno = 0; seqno <= 10; seqno++) {
        tidemark_watch *there = watch(1, seqno);
        CHECK_INT(tidemark_watch_ready(there), 1);
        CHECK(readable(fd_of(there)));
        tidemark_watch_close(there);
    }
    for (int bit = 5; bit < 63; bit += 3) { /* jumps of 2^32 and more among them */
        const int64_t target = (INT64_C(1) << bit) + bit;
        tidemark_watch *exact = watch(1, target), *no_fd = watch(1, target);
        int fd = fd_of(exact);
        CHECK(!readable(fd));
        advance(0, target); /* another shard */
        advance(1, target - 1);
        CHECK_INT(tidemark_watch_ready(exact), 0);
        CHECK_INT(tidemark_watch_ready(no_fd), 0);
        CHECK(!readable(fd));
        advance(1, target + target % 3); /* exactly there, or further */
        CHECK_INT(tidemark_watch_ready(exact), 1);
        CHECK_INT(tidemark_watch_ready(no_fd), 1);
        CHECK(readable(fd));
        advance(1, target + 3);
        CHECK(readable(fd));
        CHECK_INT(fd_of(exact), fd);
        CHECK(readable(fd));
        tidemark_watch_close(exact);
        tidemark_watch_close(no_fd);
    }
    tidemark_watch *last = watch(1, TIDEMARK_SEQNO_MAX);
    int fd = fd_of(last);
    CHECK(!readable(fd));
    advance(1, TIDEMARK_SEQNO_MAX);
    CHECK(readable(fd));
    tidemark_watch_close(last);
    tidemark_state_release(state);
}

/* An advance makes readable what is there, of that shard, and nothing else. */
static void test_many(void) {
    enum { COUNT = 60 };
    tidemark_watch *watches[COUNT];
    int fds[COUNT], wrong = 0;
    begin();
    for (int i = 0; i < COUNT; i++) {
        watches[i] = watch((uint32_t)i % 3, 1 + i * 7 % COUNT); /* not in order */
        fds[i] = fd_of(watches[i]);
    }
    for (int64_t mark = 1; mark <= COUNT; mark++) {
        for (uint32_t shard = 0; shard < 3; shard++) {
            advance(shard, mark);
            for (int i = 0; i < COUNT; i++) {
                int64_t at = (uint32_t)i % 3 <= shard ? mark : mark - 1;
                wrong += readable(fds[i]) != (1 + i * 7 % COUNT <= at);
            }
        }
        int again = (int)(mark * 11 % COUNT); /* one is closed and made anew */
        tidemark_watch_close(watches[again]);
        watches[again] = watch((uint32_t)again % 3, 1 + again * 7 % COUNT);
        fds[again] = fd_of(watches[again]);
    }
    CHECK_INT(wrong, 0);
    for (uint32_t shard = 0; shard < 3; shard++) advance(shard, COUNT + 1);
    for (int i = 0; i < COUNT; i++) tidemark_watch_close(watches[i]);
    for (uint32_t shard = 0; shard < 3; shard++) CHECK_INT(flags(shard), 0);
    CHECK(atomic_load(&state->watches)->first == NULL);
    tidemark_state_release(state);
}

/* ---- what another thread does meanwhile, at any step ---- */

static bool took_the_lock; /* it came to the lock, and does what it does there afterwards */

/* Another thread's advance to 10, up to the lock. */
static void advance_to_10(void) {
    struct tidemark_slot *slot = tidemark_state_slot(state, 0);
    CHECK(tidemark_slot_advance(slot, 10));
    took_the_lock = (flags(0) & TIDEMARK_WATCHED) != 0 && atomic_load(&slot->watched) <= 10;
}

/* How the shard was before matters: never watched; watched in vain; watched for a higher or a lower seqno. */
static void test_an_advance_at_every_step(void) {
    static const int64_t others[] = {0, 3, 100, 7};
    for (int before = 0; before < 4; before++) {
        bool reached = true; /* there is an nth step */
        for (long n = 0; reached; n++) {
            begin();
            tidemark_watch *other = watch(0, others[before]), *seen = watch(0, 8);
            if (before > 0) (void)fd_of(other);
            advance(0, 5);
            took_the_lock = false;
            at_step = advance_to_10;
            steps_left = n;
            int fd = fd_of(seen);
            reached = steps_left < 0;
            steps_left = -1;
            if (reached) {
                if (took_the_lock) tidemark_watches_wake(state, tidemark_state_slot(state, 0));
                CHECK_INT(tidemark_state_applied_seqno(state, 0), 10);
                CHECK(readable(fd));
                CHECK(before == 0 || readable(fd_of(other)) == (others[before] <= 10));
            }
            tidemark_watch_close(seen);
            tidemark_watch_close(other);
            tidemark_state_release(state);
            CHECK(reached || n >= 7);
            if (n > 100) abort();
        }
    }
}

static tidemark_watch *newcomer;
static bool waits_for_the_lock;

/* Another thread's watch of 12, where the lock is free. */
static void watch_12(void) {
    pthread_mutex_t *lock = &atomic_load(&state->watches)->lock;
    waits_for_the_lock = pthread_mutex_trylock(lock) != 0;
    if (waits_for_the_lock) return;
    (void)pthread_mutex_unlock(lock);
    (void)fd_of(newcomer);
}

static void test_a_watch_at_every_step_of_an_advance(void) {
    for (int far = 0; far < 2; far++) {
        bool reached = true; /* there is an nth step */
        for (long n = 0; reached; n++) {
            begin();
            newcomer = watch(0, 12);
            tidemark_watch *near = watch(0, 10), *other = watch(0, far ? 100 : 4);
            (void)fd_of(near);
            (void)fd_of(other);
            CHECK(tidemark_slot_advance(tidemark_state_slot(state, 0), 10));
            waits_for_the_lock = true;
            at_step = watch_12;
            steps_left = n;
            tidemark_watches_wake(state, tidemark_state_slot(state, 0));
            reached = steps_left < 0;
            steps_left = -1;
            if (reached) {
                CHECK(readable(fd_of(near)));
                int fd = fd_of(newcomer);
                CHECK(!readable(fd));
                advance(0, 12);
                CHECK(readable(fd));
                CHECK(readable(fd_of(other)) == !far);
            }
            tidemark_watch_close(near);
            tidemark_watch_close(other);
            tidemark_watch_close(newcomer);
            tidemark_state_release(state);
            CHECK(reached || n >= 7);
            if (n > 100) abort();
        }
    }
}

/* ---- what is paid ---- */

static void *advance_to(void *seqno) {
    advance(0, *(int64_t *)seqno);
    return NULL;
}

static pthread_mutex_t *lock_of_watches(void) {
    return &atomic_load(&state->watches)->lock;
}

/* Advances while the lock is held; one that takes it would stand still until the alarm. */
static void advance_without_lock(int64_t seqno) {
    (void)pthread_mutex_lock(lock_of_watches());
    advance(0, seqno);
    (void)pthread_mutex_unlock(lock_of_watches());
}

/* Advances in a thread while the lock is held: it must wait for it. */
static void advance_by_lock(int64_t seqno) {
    struct timespec until;
    pthread_t thread;
    (void)pthread_mutex_lock(lock_of_watches());
    if (pthread_create(&thread, NULL, advance_to, &seqno) != 0) abort();
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 30000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    bool waits = pthread_timedjoin_np(thread, NULL, &until) != 0;
    (void)pthread_mutex_unlock(lock_of_watches());
    CHECK(waits);
    if (waits) (void)pthread_join(thread, NULL);
}

static void test_what_an_advance_pays(void) {
    begin();
    tidemark_watch *far = watch(0, 1000);
    CHECK_INT(tidemark_watch_ready(far), 0);
    CHECK_INT(flags(0), 0); /* without a descriptor nobody pays */
    (void)fd_of(far);
    CHECK_INT(flags(0), TIDEMARK_WATCHED);
    CHECK_INT(flags(1), 0);
    uint32_t event = atomic_load(state->event);
    advance_without_lock(1);
    advance_without_lock(999);
    tidemark_watch *near = watch(0, 500), *nearer = watch(0, 1005), *other = watch(1, 7);
    (void)fd_of(near); /* there already */
    (void)fd_of(nearer);
    (void)fd_of(other);
    advance_by_lock(1000);
    CHECK(readable(fd_of(far)));
    CHECK_INT(atomic_load(state->event), event); /* nobody slept */
    CHECK_INT(flags(0), TIDEMARK_WATCHED);
    CHECK(!readable(fd_of(nearer)));
    advance_without_lock(1004);
    advance_by_lock(1005);
    CHECK(readable(fd_of(nearer)));
    CHECK_INT(flags(0), 0);
    advance_without_lock(1006);
    /* one that was closed costs one advance */
    tidemark_watch *closed = watch(0, 1007);
    (void)fd_of(closed);
    tidemark_watch_close(closed);
    advance_by_lock(1007);
    CHECK_INT(flags(0), 0);
    advance_without_lock(1008);
    CHECK_INT(flags(1), TIDEMARK_WATCHED);
    tidemark_watch_close(far);
    tidemark_watch_close(near);
    tidemark_watch_close(nearer);
    tidemark_watch_close(other);
    tidemark_state_release(state);
}

/* A sleeper and a watch on one mark: neither's flag is in the other's way. */
static void test_beside_a_sleeper(void) {
    begin();
    tidemark_watch *seen = watch(0, 5);
    int fd = fd_of(seen);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.01, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(flags(0), TIDEMARK_WATCHED | TIDEMARK_MAY_SLEEP);
    uint32_t event = atomic_load(state->event);
    advance(0, 4);
    CHECK_INT(atomic_load(state->event), event + 1);
    CHECK_INT(flags(0), TIDEMARK_WATCHED);
    CHECK(!readable(fd));
    advance(0, 5);
    CHECK(readable(fd));
    CHECK_INT(atomic_load(state->event), event + 1);
    CHECK_INT(flags(0), 0);
    tidemark_state_interrupt(state);
    tidemark_watch_close(seen);
    tidemark_state_release(state);
}

/* Every way to advance. */
static void test_advance_all(void) {
    static const tidemark_mark marks[] = {{0, 3}, {1, 1}, {2, 9}};
    begin();
    tidemark_watch *first = watch(0, 3), *second = watch(1, 2), *third = watch(2, 1);
    int fds[] = {fd_of(first), fd_of(second), fd_of(third)};
    CHECK_INT(tidemark_state_advance_all(state, marks, 3, &failure), 3);
    CHECK(readable(fds[0]));
    CHECK(!readable(fds[1]));
    CHECK(readable(fds[2]));
    tidemark_state *copy;
    CHECK_INT(tidemark_state_clone(state, &copy, &failure), 0); /* which nobody watches */
    CHECK_INT(tidemark_state_advance(copy, 1, 2), 1);
    CHECK(!readable(fds[1]));
    CHECK(atomic_load(&copy->watches) == NULL);
    tidemark_state_release(copy);
    tidemark_watch_close(first);
    tidemark_watch_close(second);
    tidemark_watch_close(third);
    tidemark_state_release(state);
}

/* ---- what is held, and what cannot be had ---- */

static void test_a_watch_holds_the_state(void) {
    int descriptors = count_descriptors();
    begin();
    tidemark_watch *seen = watch(0, 5), *no_fd = watch(0, 5);
    CHECK_INT(count_descriptors(), descriptors); /* none before they are asked for */
    int fd = fd_of(seen);
    CHECK_INT(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    tidemark_state_release(state);
    CHECK_INT(tidemark_watch_ready(seen), 0);
    CHECK_INT(tidemark_state_advance(seen->state, 0, 5), 1);
    CHECK(readable(fd));
    tidemark_watch_close(seen);
    CHECK_INT(tidemark_watch_ready(no_fd), 1);
    tidemark_watch_close(no_fd);
    tidemark_watch_close(NULL);
    CHECK_INT(count_descriptors(), descriptors);
}

static void test_what_cannot_be_watched(void) {
    tidemark_watch *made = NULL;
    begin();
    CHECK_INT(tidemark_state_watch(state, 3, 1, &made, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_STR(failure.message, "shard 3 is not tracked");
    CHECK_INT(tidemark_state_watch(state, 65536, 1, &made, NULL), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_watch(state, 0, -1, &made, &failure), TIDEMARK_EINVAL);
    CHECK_STR(failure.message, "seqno out of range: -1");
    CHECK(made == NULL);
    tidemark_state_release(state);
}

/* With the last free descriptor gone. */
static void test_no_descriptors_left(void) {
    struct rlimit limit, none;
    begin();
    tidemark_watch *seen = watch(1, 5);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    none.rlim_cur = 0;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_INT(tidemark_watch_fd(seen, &failure), TIDEMARK_EIO);
    CHECK_STR(failure.message, "shard 1: cannot make a descriptor to watch by: Too many open files");
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_INT(flags(1), 0);
    int fd = fd_of(seen);
    CHECK(!readable(fd));
    advance(1, 5);
    CHECK(readable(fd));
    tidemark_watch_close(seen);
    tidemark_state_release(state);
}

/* ---- files ---- */

static void advance_file_to_7(void) {
    tidemark_state *own = open_or_stop();
    CHECK_INT(tidemark_state_advance(own, 3, 7), 1);
    tidemark_state_release(own);
}

static void test_files(void) {
    int code;
    state = open_or_stop();
    tidemark_watch *seen = watch(3, 7);
    CHECK_INT(tidemark_watch_fd(seen, &failure), TIDEMARK_EUNSUPPORTED);
    CHECK(strstr(failure.message, "shard 3: ") == failure.message);
    tidemark_state *read = open_state(TIDEMARK_OPEN_READONLY, &code), *held = state;
    state = read;
    tidemark_watch *reader = watch(3, 7);
    CHECK_INT(tidemark_watch_fd(reader, NULL), TIDEMARK_EUNSUPPORTED);
    CHECK_INT(tidemark_watch_ready(seen) + tidemark_watch_ready(reader), 0);
    CHECK_INT(in_child(advance_file_to_7), 0);
    CHECK_INT(tidemark_watch_ready(seen), 1);
    CHECK_INT(tidemark_watch_ready(reader), 1);
    CHECK_INT(atomic_load(&tidemark_state_slot(held, 3)->waiter), 0);
    CHECK_INT(save(held), 0);
    tidemark_watch_close(reader);
    tidemark_watch_close(seen);
    tidemark_state_release(read);
    tidemark_state_release(held);
    /* without a live file: the marks stand still, yet it is a state with files */
    CHECK_INT(unlink(live_path), 0);
    state = open_state(TIDEMARK_OPEN_READONLY, &code);
    seen = watch(3, 7);
    CHECK_INT(tidemark_watch_ready(seen), 1);
    CHECK_INT(tidemark_watch_fd(seen, NULL), TIDEMARK_EUNSUPPORTED);
    tidemark_watch_close(seen);
    tidemark_state_release(state);
}

/* ---- forks ---- */

static tidemark_watch *inherited;

/* The parent's lock is held for ever here, as if another of its threads had it. */
static void use_in_child(void) {
    (void)alarm(60);
    CHECK_INT(tidemark_watch_fd(inherited, &failure), TIDEMARK_EFORKED);
    advance(0, 4);
    CHECK(atomic_load(&state->watches)->inherited == NULL); /* nobody came to it */
    advance(0, 5);
    CHECK_INT(tidemark_watch_ready(inherited), 1); /* of this copy */
    CHECK_INT(flags(0), 0);
    tidemark_watch *own = watch(0, 9), *other = watch(1, 1);
    int fd = fd_of(own);
    advance(0, 8);
    CHECK(!readable(fd));
    advance(0, 9);
    CHECK(readable(fd));
    tidemark_watch_close(inherited); /* its descriptor and its reference; it stays in the parent's list */
    tidemark_watch_close(own);
    CHECK_INT(tidemark_watch_ready(other), 0);
    CHECK_INT(in_child(test_there_one_short_and_beyond), 0); /* and once more */
    tidemark_watch_close(other);
    tidemark_state_release(state);
}

static void test_forks(void) {
    begin();
    inherited = watch(0, 5);
    int fd = fd_of(inherited);
    (void)pthread_mutex_lock(lock_of_watches());
    CHECK_INT(in_child(use_in_child), 0);
    (void)pthread_mutex_unlock(lock_of_watches());
    CHECK(!readable(fd));
    CHECK_INT(flags(0), TIDEMARK_WATCHED);
    advance(0, 5);
    CHECK(readable(fd));
    tidemark_watch_close(inherited);
    tidemark_state_release(state);
}

int main(void) {
    (void)alarm(120); /* instead of a lock for ever */
    make_directory();
    RUN_EMPTY(test_there_one_short_and_beyond);
    RUN_EMPTY(test_many);
    RUN_EMPTY(test_an_advance_at_every_step);
    RUN_EMPTY(test_a_watch_at_every_step_of_an_advance);
    RUN_EMPTY(test_what_an_advance_pays);
    RUN_EMPTY(test_beside_a_sleeper);
    RUN_EMPTY(test_advance_all);
    RUN_EMPTY(test_a_watch_holds_the_state);
    RUN_EMPTY(test_what_cannot_be_watched);
    RUN_EMPTY(test_no_descriptors_left);
    RUN_EMPTY(test_files);
    RUN_EMPTY(test_forks);
    return FINISH();
}
