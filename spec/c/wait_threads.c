/* Waiting between threads: who comes when, interrupts, signals, time. Under ThreadSanitizer too. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/core/wait.h"
#include "state_threads.h"

static const int64_t big = (int64_t)1 << 32;

/* A thread that waits for a mark of `shared`. */
struct waiter {
    uint32_t shard;
    int64_t seqno;
    double timeout;
    _Atomic(int) done;
    int result;
    int record; /* what it then found in the place of `seqno` */
    pthread_t thread;
};

static void *wait_for_it(void *waiter_) {
    struct waiter *waiter = waiter_;
    waiter->result = tidemark_state_wait_for(shared, waiter->shard, waiter->seqno, waiter->timeout, NULL);
    if (waiter->result == 0) waiter->record = records[waiter->shard][waiter->seqno % big];
    atomic_store(&waiter->done, 1);
    return NULL;
}

static void waiter_start(struct waiter *waiter, uint32_t shard, int64_t seqno) {
    waiter->shard = shard;
    waiter->seqno = seqno;
    waiter->timeout = -1;
    waiter->record = -1;
    atomic_store(&waiter->done, 0);
    if (pthread_create(&waiter->thread, NULL, wait_for_it, waiter) != 0) abort();
}

static int waiter_join(struct waiter *waiter) {
    (void)pthread_join(waiter->thread, NULL);
    return waiter->result;
}

/* Long enough that who can go on does, mostly; nothing fails if it does not. */
static void a_moment(void) {
    static const struct timespec moment = {0, 20000000};
    (void)nanosleep(&moment, NULL);
}

static void advance(uint32_t shard, int64_t seqno) {
    records[shard][seqno % big] = (int)(seqno % big); /* plain memory, which only the mark publishes */
    CHECK_INT(tidemark_state_advance(shared, shard, seqno), 1);
}

static void five_targets(void) {
    struct waiter waiters[5];
    begin();
    advance(1, 10);
    for (int i = 0; i < 5; i++) waiter_start(&waiters[i], 1, 10 + 10 * i);
    CHECK_INT(waiter_join(&waiters[0]), 0); /* already there */
    a_moment();
    for (int i = 1; i < 5; i++) {
        advance(1, 10 * i + 9); /* one short */
        a_moment();
        for (int other = i; other < 5; other++) CHECK_INT(atomic_load(&waiters[other].done), 0);
        advance(1, 10 * i + 10);
        CHECK_INT(waiter_join(&waiters[i]), 0);
        CHECK_INT(waiters[i].record, 10 * i + 10);
    }
    tidemark_state_release(shared);
}

static void ten_on_one(void) {
    struct waiter waiters[10];
    begin();
    for (int i = 0; i < 10; i++) waiter_start(&waiters[i], 2, 7);
    a_moment();
    advance(3, 9); /* another shard */
    a_moment();
    for (int i = 0; i < 10; i++) CHECK_INT(atomic_load(&waiters[i].done), 0);
    advance(2, 7);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(waiter_join(&waiters[i]), 0);
        CHECK_INT(waiters[i].record, 7);
    }
    tidemark_state_release(shared);
}

static void jumps_of_2_to_the_32(void) {
    struct waiter waiters[4];
    begin();
    for (int i = 0; i < 4; i++) waiter_start(&waiters[i], 0, i * big + 5);
    advance(0, 5);
    CHECK_INT(waiter_join(&waiters[0]), 0);
    for (int i = 1; i < 4; i++) {
        a_moment();
        CHECK_INT(atomic_load(&waiters[i].done), 0);
        advance(0, i * big + 5);
        CHECK_INT(waiter_join(&waiters[i]), 0);
    }
    CHECK_INT(tidemark_state_advance(shared, 0, TIDEMARK_SEQNO_MAX), 1);
    CHECK_INT(tidemark_state_wait_for(shared, 0, TIDEMARK_SEQNO_MAX, -1, NULL), 0);
    tidemark_state_release(shared);
}

static void *wait_for_any(void *shard) {
    static const tidemark_mark marks[] = {{3, 0}, {1, 0}, {2, 4}};
    return (void *)(long)tidemark_state_wait_any(shared, marks, 3, -1, shard, NULL);
}

static void any_of_three(void) {
    for (uint32_t i = 0; i < 3; i++) {
        static const tidemark_mark moves[] = {{1, 1}, {2, 5}, {3, 9}};
        uint32_t shard = 99;
        pthread_t thread;
        void *result;
        begin();
        advance(2, 4);
        if (pthread_create(&thread, NULL, wait_for_any, &shard) != 0) abort();
        a_moment();
        advance(0, 8);
        advance(moves[i].shard, moves[i].seqno);
        (void)pthread_join(thread, &result);
        CHECK_INT((long)result, 0);
        CHECK_INT(shard, moves[i].shard);
        tidemark_state_release(shared);
    }
}

/* All at once: four threads advance one shard, each with seqnos of its own, while waiters go up with it. */
#define MANY (SLOW ? 50000 : 1000000)

static void *advance_many(void *number) {
    const int own = *(int *)number;
    long wrong = 0;
    for (int m = 1; m <= MANY; m++) {
        wrong += tidemark_state_advance(shared, 0, (int64_t)m * THREADS + own) < 0;
        if (own != 0) wrong += tidemark_state_advance(shared, (uint32_t)own, m) != 1;
    }
    return (void *)wrong;
}

static void *follow_the_mark(void *step_) {
    const int64_t step = *(int64_t *)step_;
    long wrong = 0;
    for (int64_t seqno = step; seqno <= (int64_t)MANY * THREADS; seqno += step) {
        wrong += tidemark_state_wait_for(shared, 0, seqno, -1, NULL) != 0;
        wrong += tidemark_state_applied_seqno(shared, 0) < seqno;
    }
    return (void *)wrong;
}

static void exact_maxima(void) {
    int64_t steps[3] = {MANY, MANY / 100 + 1, 997};
    pthread_t threads[3];
    begin();
    for (int i = 0; i < 3; i++) {
        if (pthread_create(&threads[i], NULL, follow_the_mark, &steps[i]) != 0) abort();
    }
    CHECK_INT(on_threads(advance_many), 0);
    for (int i = 0; i < 3; i++) {
        void *wrong;
        (void)pthread_join(threads[i], &wrong);
        CHECK_INT((long)wrong, 0);
    }
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), (int64_t)MANY * THREADS + THREADS - 1);
    for (uint32_t shard = 1; shard < THREADS; shard++) CHECK_INT(tidemark_state_applied_seqno(shared, shard), MANY);
    tidemark_state_release(shared);
}

/* ---- ends without a mark ---- */

static void a_time_out(void) {
    begin();
    double before = tidemark_monotonic();
    double cpu_before = cpu_seconds();
    CHECK_INT(tidemark_state_wait_for(shared, 0, 1, 1.05, NULL), TIDEMARK_ETIMEOUT);
    CHECK(cpu_seconds() - cpu_before < 0.005); /* asleep */
    double took = tidemark_monotonic() - before;
    CHECK(took >= 1.05 && took < 30);
    before = tidemark_monotonic();
    for (int i = 0; i < 1000; i++) CHECK_INT(tidemark_state_wait_for(shared, 0, 1, 0, NULL), TIDEMARK_ETIMEOUT);
    CHECK(tidemark_monotonic() - before < 10);
    tidemark_state_release(shared);
}

static void interrupted_by_a_thread(void) {
    struct waiter waiters[3];
    begin();
    for (int i = 0; i < 3; i++) waiter_start(&waiters[i], (uint32_t)i, 7);
    a_moment();
    tidemark_state_interrupt(shared);
    /* one that had not yet begun is not among those that this ends, if another was */
    while (!atomic_load(&waiters[0].done) || !atomic_load(&waiters[1].done) || !atomic_load(&waiters[2].done)) {
        a_moment();
        tidemark_state_interrupt(shared);
    }
    for (int i = 0; i < 3; i++) CHECK_INT(waiter_join(&waiters[i]), TIDEMARK_EINTERRUPTED);
    tidemark_state_release(shared);
}

static _Atomic(int) signals;

static void interrupt_state(int signal) {
    (void)signal;
    tidemark_state_interrupt(shared);
}

static void count_signal(int signal) {
    (void)signal;
    atomic_fetch_add(&signals, 1);
}

static void handle(int signal, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler}; /* without SA_RESTART */
    if (sigaction(signal, &action, NULL) < 0) abort();
}

static void interrupted_by_a_signal_handler(void) {
    struct waiter waiter;
    begin();
    handle(SIGUSR1, interrupt_state);
    waiter_start(&waiter, 0, 7);
    a_moment();
    CHECK_INT(pthread_kill(waiter.thread, SIGUSR1), 0); /* also if it comes before the wait begins */
    CHECK_INT(waiter_join(&waiter), TIDEMARK_EINTERRUPTED);
    /* raised before the wait, in the same thread */
    (void)raise(SIGUSR1);
    CHECK_INT(tidemark_state_wait_for(shared, 0, 7, -1, NULL), TIDEMARK_EINTERRUPTED);
    CHECK_INT(tidemark_state_wait_for(shared, 0, 7, 0.01, NULL), TIDEMARK_ETIMEOUT);
    tidemark_state_release(shared);
}

static void signals_alone_do_not_end_it(void) {
    struct waiter waiter;
    begin();
    handle(SIGUSR2, count_signal);
    waiter_start(&waiter, 0, 7);
    for (int i = 0; i < 10 || atomic_load(&signals) == 0; i++) {
        a_moment();
        CHECK_INT(atomic_load(&waiter.done), 0);
        CHECK_INT(pthread_kill(waiter.thread, SIGUSR2), 0);
    }
    advance(0, 7);
    CHECK_INT(waiter_join(&waiter), 0);
    tidemark_state_release(shared);
}

/* Others drop their references while one waits with its own. */
static void others_release(void) {
    struct waiter waiter;
    begin();
    tidemark_state *other = tidemark_state_retain(shared), *third = tidemark_state_retain(shared);
    waiter_start(&waiter, 0, 7);
    a_moment();
    tidemark_state_release(third);
    records[0][7] = 7;
    CHECK_INT(tidemark_state_advance(other, 0, 7), 1);
    tidemark_state_release(other);
    CHECK_INT(waiter_join(&waiter), 0);
    tidemark_state_release(shared);
}

int main(void) {
    (void)alarm(300); /* instead of a wait without end */
    RUN(five_targets);
    RUN(ten_on_one);
    RUN(jumps_of_2_to_the_32);
    RUN(any_of_three);
    RUN(exact_maxima);
    RUN(a_time_out);
    RUN(interrupted_by_a_thread);
    RUN(interrupted_by_a_signal_handler);
    RUN(signals_alone_do_not_end_it);
    RUN(others_release);
    return FINISH();
}
