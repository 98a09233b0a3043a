/*
 * Waiting for marks. Each slot has a flag that somebody may sleep on its mark; all who wait on a state sleep on one
 * event word. The hand-shake, which spec/models/wait.pml checks:
 *
 *     waiter                               who advances
 *     ------                               ------------
 *  1. reads the event                      a. exchanges the mark
 *  2. sets the flag                        b. reads the flags; done if none is set
 *  3. reads the mark; done if it is there  c. clears the flag; done if another one did
 *  4. sleeps while the event is as read    d. changes the event
 *  5. goes to 1                            e. wakes all
 *
 * In the one order that all these (seq_cst) have, 2 before 3 and a before b: either the waiter sees the mark or the
 * other one sees the flag. Where it sees a flag that is set, the event changes after it is cleared. So a waiter that
 * has set the flag before the clearing does not sleep through d, for it had read the event before; and one that has set
 * it afterwards is seen by the next to advance. The flag is cleared, not counted: a waiter that was killed costs one
 * wake, and not one for every later advance.
 *
 * A process may be killed between a and e. So nobody sleeps longer than SLICE before it looks again.
 *
 * A read-only state can set no flag. But some slots have a second one, TIDEMARK_WAKE_ALWAYS, which is never cleared:
 * the writer of a log sets it on its heads. There b finds a flag each time, and at 2 a read-only waiter has only to see
 * that it is set. Where it is not, who only reads looks again after short pauses. Nor can a read-only state change the
 * event: an interrupt that comes between 3 and 4 is seen after the SLICE.
 */
#define _DEFAULT_SOURCE 1 /* syscall, clock_gettime */
#include "wait.h"

#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "error.h"
#include "futex.h"
#include "state.h"
#include "watch.h"

#define SLICE          0.1 /* seconds */
#define LONGEST_PAUSE  0.005
#define SHORTEST_PAUSE (LONGEST_PAUSE / 32) /* doubled from look to look */

double tidemark_monotonic(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Whether the event word lies in the live file, where other processes sleep on it, too. */
static bool is_shared(const tidemark_state *state) {
    return state->event != &state->own_event;
}

/* d and e. */
static void wake_all(const tidemark_state *state) {
    if (!state->readonly || !is_shared(state)) (void)atomic_fetch_add(state->event, 1);
    tidemark_futex_wake(state->event, is_shared(state));
}

void tidemark_state_wake(tidemark_state *state, struct tidemark_slot *slot) {
    uint32_t flags = atomic_fetch_and(&slot->waiter, ~TIDEMARK_MAY_SLEEP);
    if ((flags & ~TIDEMARK_WATCHED) != 0) wake_all(state);
    if ((flags & TIDEMARK_WATCHED) != 0) tidemark_watches_wake(state, slot);
}

void tidemark_state_wake_always(tidemark_state *state) {
    for (int shard = tidemark_state_next(state, -1); shard >= 0; shard = tidemark_state_next(state, shard))
        (void)atomic_fetch_or(&tidemark_state_slot(state, (uint32_t)shard)->waiter, TIDEMARK_WAKE_ALWAYS);
}

/* Whether the wait that began when `met` interrupts had ended others is interrupted. All that had begun are; none that
 * begins afterwards is by those that were seen here, whatever another wait has seen meanwhile. */
static bool is_interrupted(tidemark_state *state, uint32_t met) {
    uint32_t interrupts = atomic_load(&state->interrupts);
    if (interrupts == met) return false;
    while ((int32_t)(interrupts - met) > 0 && !atomic_compare_exchange_weak(&state->interrupts_met, &met, interrupts)) {
    }
    return true;
}

/* 2: whether who advances one of the marks will wake us. */
static bool announce(const tidemark_state *state, const tidemark_mark *marks, size_t count) {
    bool heard = true;
    for (size_t i = 0; i < count; i++) {
        struct tidemark_slot *slot = tidemark_state_slot(state, marks[i].shard);
        if (slot == NULL) continue;
        if (!state->readonly) (void)atomic_fetch_or(&slot->waiter, TIDEMARK_MAY_SLEEP);
        else if ((atomic_load(&slot->waiter) & TIDEMARK_WAKE_ALWAYS) == 0) heard = false;
    }
    return heard;
}

/* The first of the marks that stands above the one given, or NULL. */
static const tidemark_mark *find_above(const tidemark_state *state, const tidemark_mark *marks, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct tidemark_slot *slot = tidemark_state_slot(state, marks[i].shard);
        if (slot != NULL && atomic_load(&slot->mark) > marks[i].seqno) return &marks[i];
    }
    return NULL;
}

int tidemark_state_wait_above(tidemark_state *state, const tidemark_mark *marks, size_t count, double timeout,
                              uint32_t *shard, tidemark_error *error) {
    const double deadline = tidemark_monotonic() + timeout; /* means nothing where it is for ever */
    const uint32_t met = atomic_load(&state->interrupts_met);
    double pause = SHORTEST_PAUSE;
    for (bool looked = false;; looked = true) { /* the first look sets no flag: it may not come to a sleep */
        uint32_t event = atomic_load(state->event);
        bool heard = !looked || announce(state, marks, count);
        const tidemark_mark *found = find_above(state, marks, count);
        if (found != NULL) {
            *shard = found->shard;
            return 0;
        }
        /* with a time-out of 0 it would not sleep: an interrupt is left for the next wait that would */
        if (timeout != 0 && is_interrupted(state, met))
            return tidemark_fail(error, TIDEMARK_EINTERRUPTED, "the wait was interrupted");
        double slice = heard ? SLICE : pause;
        double left = timeout >= 0 ? deadline - tidemark_monotonic() : slice; /* not a number: for ever */
        if (left <= 0) return tidemark_fail(error, TIDEMARK_ETIMEOUT, "none of %zu marks moved in time", count);
        if (!looked) continue;
        tidemark_futex_wait(state->event, event, is_shared(state), (long)((left < slice ? left : slice) * 1e9));
        if (pause < LONGEST_PAUSE) pause *= 2;
    }
}

int tidemark_state_wait_for(tidemark_state *state, uint32_t shard, int64_t seqno, double timeout,
                            tidemark_error *error) {
    if (seqno < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "seqno out of range: %" PRId64, seqno);
    if (tidemark_state_slot(state, shard) == NULL) return tidemark_fail_shard(error, shard);
    const tidemark_mark below = {shard, seqno - 1};
    int result = tidemark_state_wait_above(state, &below, 1, timeout, &shard, error);
    if (result == TIDEMARK_ETIMEOUT)
        return tidemark_fail(error, result, "shard %" PRIu32 ": the mark did not come to %" PRId64 " in time", shard,
                             seqno);
    return result;
}

int tidemark_state_wait_any(tidemark_state *state, const tidemark_mark *marks, size_t count, double timeout,
                            uint32_t *shard, tidemark_error *error) {
    int result = tidemark_state_check_marks(state, marks, count, error);
    return result < 0 ? result : tidemark_state_wait_above(state, marks, count, timeout, shard, error);
}

void tidemark_state_interrupt(tidemark_state *state) {
    int saved = errno; /* of what a signal handler has interrupted */
    (void)atomic_fetch_add(&state->interrupts, 1);
    wake_all(state);
    errno = saved;
}
