/* What threads do with one state, for state_threads.c and for the mutants (spec/c/mutants) that must be caught at it:
 * they read plain memory that others wrote before they moved a mark, and they drop the last reference. ThreadSanitizer
 * reports whoever comes too early. */
#ifndef TIDEMARK_STATE_THREADS_H
#define TIDEMARK_STATE_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "tidemark.h"

/* Whether ThreadSanitizer looks on, which takes ten times as long. */
#if defined __SANITIZE_THREAD__
#define SLOW 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

#define THREADS 4

struct start {
    void *(*run)(void *number);
    int number;
    pthread_barrier_t *barrier;
};

static void *start_together(void *start_) {
    struct start *start = start_;
    (void)pthread_barrier_wait(start->barrier);
    return start->run(&start->number);
}

/* Runs `run` on THREADS threads at once, each with the address of its number, and sums up what they return. */
static long on_threads(void *(*run)(void *number)) {
    struct start starts[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t barrier;
    long sum = 0;
    if (pthread_barrier_init(&barrier, NULL, THREADS) != 0) abort();
    for (int i = 0; i < THREADS; i++) {
        starts[i] = (struct start){run, i, &barrier};
        if (pthread_create(&threads[i], NULL, start_together, &starts[i]) != 0) abort();
    }
    for (int i = 0; i < THREADS; i++) {
        void *result;
        (void)pthread_join(threads[i], &result);
        sum += (long)result;
    }
    (void)pthread_barrier_destroy(&barrier);
    return sum;
}

static tidemark_state *make_state(void) {
    static const uint32_t shards[THREADS] = {0, 1, 2, 3};
    tidemark_state *state;
    if (tidemark_state_new(shards, THREADS, &state, NULL) != 0) abort();
    return state;
}

static tidemark_state *shared; /* of the running test */

#define RECORDS 2000
static int records[THREADS][RECORDS + 1]; /* record m of a shard is written before the advance that publishes it */

static void begin(void) {
    shared = make_state();
    memset(records, 0, sizeof records);
}

/* ---- who reads a mark sees what was written before ---- */

static void *write_and_read(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    for (int m = 1; m <= RECORDS; m++) {
        records[own][m] = m;
        wrong += tidemark_state_advance(shared, (uint32_t)own, m) != 1;
        for (uint32_t shard = 0; shard < THREADS; shard++) {
            int mark = (int)tidemark_state_applied_seqno(shared, shard);
            wrong += records[shard][mark] != mark || records[shard][mark / 2] != mark / 2;
        }
    }
    return (void *)wrong;
}

static void a_mark_publishes(void) {
    begin();
    CHECK_INT(on_threads(write_and_read), 0);
    tidemark_state_release(shared);
}

/* All threads write one shard in turn: each must have seen the one before. */
static void *write_in_turn(void *number) {
    long wrong = 0;
    for (int m = *(int *)number + 1; m <= RECORDS; m += THREADS) {
        while (tidemark_state_applied_seqno(shared, 0) < m - 1) (void)sched_yield();
        wrong += records[0][m - 1] != m - 1;
        records[0][m] = m;
        wrong += tidemark_state_advance(shared, 0, m) != 1;
    }
    return (void *)wrong;
}

static void a_mark_publishes_in_turn(void) {
    begin();
    CHECK_INT(on_threads(write_in_turn), 0);
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), RECORDS);
    tidemark_state_release(shared);
}

/* ---- so does who is told that its advance was stale ---- */

static _Atomic(int) progress[THREADS]; /* relaxed: a hint that orders nothing */

/* Thread i publishes record m of its shard by mark 2m. Its neighbour, alone to use odd seqnos, tries 2m - 1: if the
 * mark stood there or further, record m had been published. */
static void *write_and_try(void *number) {
    const int own = *(int *)number, other = (own + 1) % THREADS;
    long wrong = 0, stale = 0;
    for (int m = 1; m <= RECORDS; m++) {
        records[own][m] = m;
        wrong += tidemark_state_advance(shared, (uint32_t)own, 2 * m) != 1;
        atomic_store_explicit(&progress[own], m, memory_order_relaxed);
        while (atomic_load_explicit(&progress[other], memory_order_relaxed) < m) (void)sched_yield();
        if (tidemark_state_advance(shared, (uint32_t)other, 2 * m - 1) == 0) {
            stale++;
            wrong += records[other][m] != m;
        }
    }
    return (void *)(wrong + (stale == 0));
}

static void a_stale_advance_acquires(void) {
    begin();
    for (int i = 0; i < THREADS; i++) atomic_store_explicit(&progress[i], 0, memory_order_relaxed);
    CHECK_INT(on_threads(write_and_try), 0);
    tidemark_state_release(shared);
}

/* ---- the last reference ---- */

#define ROUNDS 500
static tidemark_state *dropped[ROUNDS];

/* Each thread has a reference to each state: it uses it, takes and drops another, drops its own. Who is last frees, and
 * that must come after every use by another thread. */
static void *use_and_drop(void *number) {
    const uint32_t own = (uint32_t) * (int *)number;
    long wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        tidemark_state *more = tidemark_state_retain(dropped[i]);
        wrong += tidemark_state_advance(more, own, i + 1) != 1;
        tidemark_state_release(dropped[i]);
        wrong += tidemark_state_applied_seqno(more, own) != i + 1;
        tidemark_state_release(more);
    }
    return (void *)wrong;
}

static void the_last_reference_frees(void) {
    for (int i = 0; i < ROUNDS; i++) {
        dropped[i] = make_state();
        for (int thread = 1; thread < THREADS; thread++) (void)tidemark_state_retain(dropped[i]);
    }
    CHECK_INT(on_threads(use_and_drop), 0);
}

#endif
