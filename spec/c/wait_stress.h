/* Threads that wait for each other as fast as they can, with a futex that knows no time: one lost wake, and they sleep
 * for ever. For wait_stress_threads and for the mutants (spec/c/mutants/wait_broken.c), which must be caught at it. The
 * core's sources are included here. */
#ifndef TIDEMARK_WAIT_STRESS_H
#define TIDEMARK_WAIT_STRESS_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef LATE_FLAG
static _Thread_local _Atomic(uint32_t) *late;
#undef atomic_fetch_or
#define atomic_fetch_or(flag, value) ((void)(value), late = (flag))
#endif

static void tidemark_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool shared, long nanoseconds) {
#ifdef LATE_FLAG
    (void)usleep(10);
    (void)__atomic_fetch_or((uint32_t *)late, 1, __ATOMIC_SEQ_CST);
#endif
    (void)shared;
    (void)nanoseconds;
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void tidemark_futex_wake(_Atomic(uint32_t) *word, bool shared) {
    (void)shared;
#ifdef NO_WAKE
    (void)word;
#else
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
}

#define TIDEMARK_FUTEX_H <stdlib.h>

#include "../../csrc/core/error.c"
#include "../../csrc/core/state.c"
#include "../../csrc/core/wait.c"
#include "../../csrc/core/watch.c"

#include "state_threads.h"

#define TURNS (SLOW ? 20000 : 100000)

/* One says that it is about to wait, and the other advances a moment later. The moments differ, so that advances meet
 * every step of a wait. */
static _Atomic(int) about_to_wait;

static void *meet(void *number) {
    long wrong = 0;
    for (int turn = 1; turn <= TURNS; turn++) {
        if (*(int *)number == 0) {
            about_to_wait = turn;
            wrong += tidemark_state_wait_for(shared, 0, turn, -1, NULL) != 0;
        } else if (*(int *)number == 1) {
            for (int i = 1; atomic_load(&about_to_wait) < turn; i++) {
                if (i % 1000 == 0) (void)sched_yield(); /* there may be one processor only */
            }
            for (volatile int i = turn % 1000; i > 0; i--) {}
            wrong += tidemark_state_advance(shared, 0, turn) != 1;
        }
    }
    return (void *)wrong;
}

static void no_wake_is_lost(void) {
    begin();
    about_to_wait = 0;
    CHECK_INT(on_threads(meet), 0);
    tidemark_state_release(shared);
}

/* The same with one shard for all: each waits for the turn of the one before. */
static void *take_turns_on_one(void *number) {
    long wrong = 0;
    for (int m = *(int *)number + 1; m <= TURNS / 4; m += THREADS) {
        wrong += tidemark_state_wait_for(shared, 0, m - 1, -1, NULL) != 0;
        wrong += tidemark_state_advance(shared, 0, m) != 1;
    }
    return (void *)wrong;
}

static void no_wake_is_lost_on_one_shard(void) {
    begin();
    CHECK_INT(on_threads(take_turns_on_one), 0);
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), TURNS / 4);
    tidemark_state_release(shared);
}

/* Waits end by interrupts, which come at any moment. */
static _Atomic(int) interrupted[THREADS];
static void *interrupt_and_be_interrupted(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    for (int turn = 1; turn <= TURNS / 4; turn++) {
        if (own == 0) {
            tidemark_state_interrupt(shared);
            while (atomic_load(&interrupted[1]) < turn) (void)sched_yield();
        } else if (own == 1) {
            wrong += tidemark_state_wait_for(shared, 0, 1, -1, NULL) != TIDEMARK_EINTERRUPTED;
            interrupted[1] = turn;
        }
    }
    return (void *)wrong;
}

static void no_interrupt_is_lost(void) {
    begin();
    interrupted[1] = 0;
    CHECK_INT(on_threads(interrupt_and_be_interrupted), 0);
    CHECK_INT(shared->interrupts_met, shared->interrupts); /* no wait to come is interrupted; a sleep has no end here */
    tidemark_state_release(shared);
}

#endif
