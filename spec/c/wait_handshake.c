/* The hand-shake of waiting, one step after another: the core's sources are included here with a futex and a clock of
 * this program's own, so that "just before it sleeps" is a place where a test can do something, and time passes only in
 * sleeps. Races between threads: wait_stress_threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SLEEPS 128
static struct {
    int sleeps, wakes;
    long nanoseconds[SLEEPS]; /* of each sleep */
    int missed;               /* sleeps that began although the word was another */
    bool shared;              /* of the last call */
    bool short_sleep;         /* sleeps end at once, as after a signal */
} futex;
static void (*before_sleep)(void); /* called once, by the next sleep */
static int64_t now;                /* nanoseconds */
static void (*on_wake)(void);

static void tidemark_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool shared, long nanoseconds) {
    void (*action)(void) = before_sleep;
    before_sleep = NULL;
    if (futex.sleeps == SLEEPS) {
        printf("    more than %d sleeps: would sleep for ever\n", SLEEPS);
        exit(1);
    }
    futex.nanoseconds[futex.sleeps++] = nanoseconds;
    futex.shared = shared;
    if (action != NULL) action();
    if (atomic_load(word) != value) futex.missed++;
    else now += futex.short_sleep ? 1000000 : nanoseconds + 1; /* a little late, as it is in life */
}

static void tidemark_futex_wake(_Atomic(uint32_t) *word, bool shared) {
    (void)word;
    futex.wakes++;
    futex.shared = shared;
    if (on_wake != NULL) on_wake();
    errno = EFAULT;
}

static int fake_clock(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_MONOTONIC) exit(1);
    time->tv_sec = (time_t)(now / 1000000000);
    time->tv_nsec = (long)(now % 1000000000);
    return 0;
}

#define TIDEMARK_FUTEX_H <stdlib.h>
#define clock_gettime    fake_clock

#include "../../csrc/core/error.c"
#include "../../csrc/core/state.c"
#include "../../csrc/core/wait.c"
#include "../../csrc/core/watch.c"

#include "check.h"

static tidemark_state *state; /* shards 0, 1, 2 */
static tidemark_error failure;

static void begin(void) {
    static const uint32_t shards[] = {0, 1, 2};
    memset(&futex, 0, sizeof futex);
    before_sleep = on_wake = NULL;
    now = 1000000000;
    if (tidemark_state_new(shards, 3, &state, NULL) < 0) exit(1);
}

static void end(void) {
    tidemark_state_release(state);
}

static uint32_t flag(uint32_t shard) {
    return atomic_load(&tidemark_state_slot(state, shard)->waiter);
}

static int64_t passed(void) {
    return now - 1000000000;
}

static void advance_0_to_5(void) {
    CHECK_INT(tidemark_state_advance(state, 0, 5), 1);
}

static void advance_2(void) {
    CHECK_INT(tidemark_state_advance(state, 2, 1), 1);
}

static void interrupt(void) {
    tidemark_state_interrupt(state);
}

static void test_nobody_sleeps_without_need(void) {
    begin();
    (void)tidemark_state_advance(state, 0, 5);
    CHECK_INT(tidemark_state_wait_for(state, 0, 0, -1, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 4, -1, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 6, 0, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_state_wait_for(state, 1, 0, 0, &failure), 0);
    CHECK_INT(futex.sleeps, 0);
    CHECK_INT(flag(0), 0);
    CHECK_INT(tidemark_state_advance(state, 0, 6), 1);
    CHECK_INT(futex.wakes, 0);
    CHECK_INT(passed(), 0);
    end();
}

static void test_slices(void) {
    begin();
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.25, &failure), TIDEMARK_ETIMEOUT);
    CHECK_STR(failure.message, "shard 0: the mark did not come to 5 in time");
    CHECK_INT(futex.sleeps, 3);
    CHECK_INT(futex.nanoseconds[0], 100000000);
    CHECK_INT(futex.nanoseconds[1], 100000000);
    CHECK(llabs(passed() - 250000000) < 1000);
    CHECK(!futex.shared);
    end();
}

/* As if the waiter had been killed: its flag stays. */
static void test_a_flag_costs_one_wake(void) {
    begin();
    (void)tidemark_state_advance(state, 0, 3);
    CHECK_INT(tidemark_state_wait_for(state, 0, 9, 0.1, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(flag(0), 1);
    CHECK_INT(tidemark_state_advance(state, 0, 3), 0); /* a stale one pays nothing */
    CHECK_INT(tidemark_state_advance(state, 1, 3), 1); /* nor does another shard */
    CHECK_INT(futex.wakes, 0);
    CHECK_INT(tidemark_state_advance(state, 0, 4), 1);
    CHECK_INT(futex.wakes, 1);
    CHECK_INT(flag(0), 0);
    for (int m = 5; m < 100; m++) CHECK_INT(tidemark_state_advance(state, 0, m), 1);
    CHECK_INT(futex.wakes, 1);
    end();
}

static void flag_is_clear(void) {
    CHECK_INT(flag(0), 0);
}

static void test_an_advance_before_the_sleep(void) {
    begin();
    before_sleep = advance_0_to_5;
    on_wake = flag_is_clear;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), 0);
    CHECK_INT(futex.sleeps, 1);
    CHECK_INT(futex.missed, 1);
    CHECK_INT(futex.wakes, 1);
    CHECK_INT(passed(), 0);
    end();
}

/* A wake for a mark that is not enough: the flag is set anew. */
static void test_one_short(void) {
    begin();
    before_sleep = advance_0_to_5;
    CHECK_INT(tidemark_state_wait_for(state, 0, 6, 0.3, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(futex.missed, 1);
    CHECK_INT(flag(0), 1);
    CHECK(llabs(passed() - 300000000) < 1000);
    end();
}

static void killed_between_exchange_and_wake(void) {
    CHECK(tidemark_slot_advance(tidemark_state_slot(state, 0), 5));
}

static void test_a_wake_that_never_came(void) {
    begin();
    before_sleep = killed_between_exchange_and_wake;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), 0);
    CHECK_INT(futex.sleeps, 1);
    CHECK_INT(passed(), 100000001);
    end();
}

static int hours;
static void sleep_again(void) {
    now += INT64_C(3600000000000);
    if (++hours < 50) before_sleep = sleep_again;
    else advance_0_to_5();
}

static void test_for_ever(void) {
    static const double endless[] = {-1, -0.001, -INFINITY, INFINITY, 1e300, NAN};
    for (size_t i = 0; i < sizeof endless / sizeof endless[0]; i++) {
        begin();
        hours = 0;
        before_sleep = sleep_again;
        CHECK_INT(tidemark_state_wait_for(state, 0, 5, endless[i], &failure), 0);
        CHECK_INT(hours, 50);
        end();
    }
}

static void test_signals_do_not_end_it(void) {
    begin();
    futex.short_sleep = true;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.05, &failure), TIDEMARK_ETIMEOUT);
    CHECK(futex.sleeps >= 50);
    CHECK(llabs(passed() - 50000000) < 1100000);
    end();
}

static void test_any(void) {
    static const tidemark_mark marks[] = {{0, 5}, {1, 0}, {2, 0}}, high[] = {{0, TIDEMARK_SEQNO_MAX}, {1, 7}};
    uint32_t shard = 99;
    begin();
    (void)tidemark_state_advance(state, 0, 5);
    before_sleep = advance_2;
    CHECK_INT(tidemark_state_wait_any(state, marks, 3, -1, &shard, &failure), 0);
    CHECK_INT(shard, 2);
    CHECK_INT(futex.sleeps, 1);
    CHECK_INT(futex.wakes, 1);
    CHECK_INT(flag(0), 1);
    CHECK_INT(flag(1), 1);
    (void)tidemark_state_advance(state, 0, TIDEMARK_SEQNO_MAX);
    CHECK_INT(tidemark_state_wait_any(state, marks, 3, 0, &shard, &failure), 0);
    CHECK_INT(shard, 0);
    shard = 99;
    CHECK_INT(tidemark_state_wait_any(state, high, 2, 0.1, &shard, &failure), TIDEMARK_ETIMEOUT);
    CHECK_STR(failure.message, "none of 2 marks moved in time");
    CHECK_INT(tidemark_state_wait_any(state, NULL, 0, 0.1, &shard, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(shard, 99);
    end();
}

static void test_what_cannot_be_waited_for(void) {
    static const tidemark_mark unknown[] = {{0, 5}, {3, 0}}, negative[] = {{0, -1}};
    uint32_t shard = 99;
    begin();
    CHECK_INT(tidemark_state_wait_for(state, 3, 0, -1, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_STR(failure.message, "shard 3 is not tracked");
    CHECK_INT(tidemark_state_wait_for(state, 65536, 0, -1, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_wait_for(state, 0, -1, -1, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_wait_for(state, 0, INT64_MIN, -1, NULL), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_state_wait_any(state, unknown, 2, -1, &shard, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_state_wait_any(state, negative, 1, -1, &shard, NULL), TIDEMARK_EINVAL);
    CHECK_INT(flag(0), 0);
    CHECK_INT(shard, 99);
    end();
}

static void test_interrupt(void) {
    begin();
    before_sleep = interrupt;
    errno = ENOENT;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(errno, ENOENT);
    CHECK_STR(tidemark_code_name(failure.code), "INTERRUPTED");
    CHECK_INT(futex.missed, 1);
    CHECK_INT(futex.wakes, 1);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.1, &failure), TIDEMARK_ETIMEOUT);
    end();
}

static void test_interrupt_before_the_wait(void) {
    begin();
    interrupt();
    interrupt();
    CHECK_INT(tidemark_state_wait_for(state, 0, 0, -1, &failure), 0); /* these do not sleep */
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 1e-9, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(futex.sleeps, 0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.1, &failure), TIDEMARK_ETIMEOUT);
    end();
}

static int inner;
static void wait_inside(void) {
    before_sleep = interrupt;
    inner = tidemark_state_wait_for(state, 1, 5, -1, NULL);
}

/* Two waits at once, as two threads have them. */
static void test_interrupt_ends_all_waits(void) {
    begin();
    before_sleep = wait_inside;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(inner, TIDEMARK_EINTERRUPTED);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.1, &failure), TIDEMARK_ETIMEOUT);
    end();
}

static void wait_inside_and_interrupt(void) {
    wait_inside();
    interrupt();
}

/* The second interrupt comes when the first has ended one of two waits. It ends the other one, and then none. */
static void test_an_interrupt_that_ended_a_wait_ends_no_later_one(void) {
    begin();
    before_sleep = wait_inside_and_interrupt;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(inner, TIDEMARK_EINTERRUPTED);
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, 0.1, &failure), TIDEMARK_ETIMEOUT);
    end();
}

static void advance_from_elsewhere(void) {
    state->readonly = false;
    advance_2();
    state->readonly = true;
}

static int looks;
static void look_again(void) {
    if (++looks < 10) before_sleep = look_again;
    else CHECK(tidemark_slot_advance(tidemark_state_slot(state, 0), 5)); /* another process */
}

static void test_readonly_looks_again(void) {
    begin();
    state->readonly = true;
    looks = 0;
    before_sleep = look_again;
    CHECK_INT(tidemark_state_wait_for(state, 0, 5, -1, &failure), 0);
    CHECK_INT(futex.sleeps, 10);
    CHECK_INT(futex.nanoseconds[0], 156250);
    for (int i = 1; i < 10; i++) CHECK_INT(futex.nanoseconds[i], i < 5 ? 156250 << i : 5000000);
    CHECK_INT(flag(0), 0);
    before_sleep = interrupt;
    CHECK_INT(tidemark_state_wait_for(state, 0, 6, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(futex.missed, 1);
    end();
}

/* The heads of a log: the flag that stays is all that a read-only waiter needs. */
static void test_readonly_sleeps_where_each_advance_wakes(void) {
    static const tidemark_mark marks[] = {{0, 5}, {2, 0}, {7, 0}}; /* there is no shard 7 */
    uint32_t shard = 99;
    begin();
    tidemark_state_wake_always(state);
    for (int m = 1; m <= 5; m++) CHECK_INT(tidemark_state_advance(state, 0, m), 1);
    CHECK_INT(futex.wakes, 5);
    CHECK_INT(flag(0), TIDEMARK_WAKE_ALWAYS);
    CHECK_INT(tidemark_state_wait_for(state, 0, 6, 0.15, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(flag(0), TIDEMARK_WAKE_ALWAYS | TIDEMARK_MAY_SLEEP);
    CHECK_INT(tidemark_state_advance(state, 0, 6), 1);
    CHECK_INT(flag(0), TIDEMARK_WAKE_ALWAYS);
    futex.sleeps = 0;
    state->readonly = true;
    before_sleep = advance_from_elsewhere;
    CHECK_INT(tidemark_state_wait_above(state, marks + 1, 2, -1, &shard, &failure), 0);
    CHECK_INT(shard, 2);
    CHECK_INT(futex.missed, 1); /* the event had changed */
    CHECK_INT(futex.sleeps, 1);
    CHECK_INT(futex.nanoseconds[0], 100000000);
    CHECK_INT(tidemark_state_wait_for(state, 0, 7, 0.35, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(futex.sleeps, 1 + 4);
    CHECK_INT(flag(0), TIDEMARK_WAKE_ALWAYS);
    /* one of the two slots has no such flag */
    (void)atomic_fetch_and(&tidemark_state_slot(state, 2)->waiter, TIDEMARK_MAY_SLEEP);
    CHECK_INT(tidemark_state_wait_above(state, marks, 2, 0.1, &shard, &failure), 0); /* 6 > 5 */
    (void)tidemark_slot_advance(tidemark_state_slot(state, 2), 4);
    static const tidemark_mark higher[] = {{0, 6}, {2, 4}};
    futex.sleeps = 0;
    CHECK_INT(tidemark_state_wait_any(state, higher, 2, 0.1, &shard, &failure), TIDEMARK_ETIMEOUT);
    CHECK(futex.sleeps > 20);
    end();
}

int main(void) {
    RUN(test_nobody_sleeps_without_need);
    RUN(test_slices);
    RUN(test_a_flag_costs_one_wake);
    RUN(test_an_advance_before_the_sleep);
    RUN(test_one_short);
    RUN(test_a_wake_that_never_came);
    RUN(test_for_ever);
    RUN(test_signals_do_not_end_it);
    RUN(test_any);
    RUN(test_what_cannot_be_waited_for);
    RUN(test_interrupt);
    RUN(test_interrupt_before_the_wait);
    RUN(test_interrupt_ends_all_waits);
    RUN(test_an_interrupt_that_ended_a_wait_ends_no_later_one);
    RUN(test_readonly_looks_again);
    RUN(test_readonly_sleeps_where_each_advance_wakes);
    return FINISH();
}
