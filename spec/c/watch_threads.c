/* Watches while other threads advance: no readiness is lost, none comes too early, and marks stay exact. Every poll is
 * without an end of its own. Under ThreadSanitizer too. */
#define _GNU_SOURCE
#include <poll.h>
#include <unistd.h>

#include "state_threads.h"

/* Whether it is readable within so many milliseconds, -1 being for ever. */
static bool readable(int fd, int timeout) {
    struct pollfd poll_fd = {fd, POLLIN, 0};
    return poll(&poll_fd, 1, timeout) == 1;
}

static tidemark_watch *watch(uint32_t shard, int64_t seqno, int *fd) {
    tidemark_watch *made;
    if (tidemark_state_watch(shared, shard, seqno, &made, NULL) < 0) abort();
    *fd = tidemark_watch_fd(made, NULL);
    if (*fd < 0) abort();
    return made;
}

/* ---- one watch at a time, met by an advance at every step of its making ---- */

#define TURNS (SLOW ? 10000 : 100000)
static _Atomic(int) about_to_watch;
static int written[TURNS + 1]; /* plain memory, which only the mark publishes */

static void *meet(void *number) {
    long wrong = 0;
    for (int turn = 1; turn <= TURNS; turn++) {
        if (*(int *)number == 0) {
            int fd;
            about_to_watch = turn;
            tidemark_watch *seen = watch(0, turn, &fd);
            (void)readable(fd, -1);
            wrong += tidemark_watch_ready(seen) != 1 || written[turn] != turn;
            tidemark_watch_close(seen);
        } else if (*(int *)number == 1) {
            for (int i = 1; atomic_load(&about_to_watch) < turn; i++) {
                if (i % 1000 == 0) (void)sched_yield(); /* there may be one processor only */
            }
            for (volatile int i = turn % 3000; i > 0; i--) {}
            written[turn] = turn;
            wrong += tidemark_state_advance(shared, 0, turn) != 1;
        }
    }
    return (void *)wrong;
}

static void no_readiness_is_lost(void) {
    begin();
    about_to_watch = 0;
    CHECK_INT(on_threads(meet), 0);
    tidemark_state_release(shared);
}

/* ---- a thousand watches come and go while two threads advance as fast as they can ---- */

#define MANY (SLOW ? 30000 : 300000)
#define POOL 480                         /* of each of the two threads that watch */
static _Atomic(int) advancing, watching; /* threads; those that watch have made POOL watches */

static void *advance_or_watch(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    if (own < 2) {
        while (atomic_load(&watching) < 2) (void)sched_yield();
        for (int m = 1; m <= MANY; m++) {
            wrong += tidemark_state_advance(shared, 0, 2 * m + own) < 0;
            wrong += tidemark_state_advance(shared, 1 + (uint32_t)own, m) != 1;
        }
        (void)atomic_fetch_sub(&advancing, 1);
        return (void *)wrong;
    }
    tidemark_watch *watches[POOL] = {NULL};
    int64_t seqnos[POOL];
    uint32_t shards[POOL], random = (uint32_t)own;
    int fds[POOL];
    long ready = 0;
    for (int i = 0; atomic_load(&advancing) > 0 || i < POOL; i++) {
        int at = i % POOL;
        random = random * 1664525 + 1013904223;
        if (watches[at] != NULL) {
            bool was_readable = readable(fds[at], 0);
            if (tidemark_watch_ready(watches[at])) {
                ready++;
                (void)readable(fds[at], -1);
            } else {
                wrong += was_readable;
                if (random >> 30 != 0) continue; /* one in four is closed early */
            }
            tidemark_watch_close(watches[at]);
        }
        shards[at] = (random >> 8) % 3;
        seqnos[at] = tidemark_state_applied_seqno(shared, shards[at]) + (random >> 16) % 3000;
        watches[at] = watch(shards[at], seqnos[at], &fds[at]);
        if (i == POOL - 1) (void)atomic_fetch_add(&watching, 1);
    }
    for (int at = 0; at < POOL; at++) { /* nobody advances any more */
        bool there = tidemark_state_applied_seqno(shared, shards[at]) >= seqnos[at];
        wrong += readable(fds[at], 0) != there || tidemark_watch_ready(watches[at]) != there;
        ready += there;
        tidemark_watch_close(watches[at]);
    }
    return (void *)(wrong + (ready == 0));
}

static void a_thousand_come_and_go(void) {
    begin();
    advancing = 2;
    watching = 0;
    CHECK_INT(on_threads(advance_or_watch), 0);
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), 2 * MANY + 1);
    CHECK_INT(tidemark_state_applied_seqno(shared, 1), MANY);
    CHECK_INT(tidemark_state_applied_seqno(shared, 2), MANY);
    tidemark_state_release(shared);
}

/* ---- watches, sleepers and interrupts on one mark ---- */

static void *watch_and_wait(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    for (int turn = 1; turn <= TURNS / 10; turn++) {
        int fd;
        tidemark_watch *seen;
        switch (own) {
        case 0: wrong += tidemark_state_wait_for(shared, 0, turn, -1, NULL) != 0; break;
        case 1:
            seen = watch(0, turn, &fd);
            (void)readable(fd, -1);
            tidemark_watch_close(seen);
            wrong += tidemark_state_advance(shared, 1, turn) != 1;
            break;
        case 2: wrong += tidemark_state_advance(shared, 0, turn) < 0; break;
        default: /* is always one watch ahead; the other one advances to it */
            seen = watch(1, turn, &fd);
            wrong += tidemark_state_advance(shared, 0, turn) < 0;
            (void)readable(fd, -1);
            tidemark_watch_close(seen);
        }
    }
    return (void *)wrong;
}

static void beside_sleepers(void) {
    begin();
    CHECK_INT(on_threads(watch_and_wait), 0);
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), TURNS / 10);
    tidemark_state_release(shared);
}

/* ---- the first descriptors of a state, at once; the last one frees it ---- */

static tidemark_watch *firsts[THREADS][ROUNDS];

static void *watch_first_and_last(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        tidemark_watch *seen = firsts[own][i];
        int fd = tidemark_watch_fd(seen, NULL);
        if (fd < 0) abort();
        wrong += tidemark_state_advance(dropped[i], (uint32_t)own, 1) != 1;
        tidemark_state_release(dropped[i]);
        wrong += !readable(fd, -1);
        tidemark_watch_close(seen);
    }
    return (void *)wrong;
}

static void first_and_last(void) {
    for (int i = 0; i < ROUNDS; i++) {
        dropped[i] = make_state();
        for (uint32_t thread = 0; thread < THREADS; thread++) {
            if (thread > 0) (void)tidemark_state_retain(dropped[i]);
            if (tidemark_state_watch(dropped[i], thread, 1, &firsts[thread][i], NULL) < 0) abort();
        }
    }
    CHECK_INT(on_threads(watch_first_and_last), 0);
}

int main(void) {
    (void)alarm(300); /* instead of a poll without end */
    RUN(no_readiness_is_lost);
    RUN(a_thousand_come_and_go);
    RUN(beside_sleepers);
    RUN(first_and_last);
    return FINISH();
}
