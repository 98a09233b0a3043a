/* Waiting between processes that have one path open, and what is left when one of them is killed. */
#define _GNU_SOURCE /* fault_io.h */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include "state_files.h"

static tidemark_state *held;

static void a_moment(void) {
    static const struct timespec moment = {0, 30000000};
    (void)nanosleep(&moment, NULL);
}

static tidemark_state *open_real(unsigned flags) {
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_open(path, usual, 2, flags, &state, &failure), 0);
    if (state == NULL) exit(1);
    return state;
}

/* ---- a child waits, this process advances ---- */

static void wait_for_7(void) {
    static const tidemark_mark marks[] = {{0, 7}, {3, 0}};
    uint32_t shard = 99;
    tidemark_state *state = open_real(0);
    CHECK_INT(tidemark_state_wait_for(state, 0, 7, -1, &failure), 0);
    CHECK_INT(tidemark_state_applied_seqno(state, 0), 7);
    CHECK_INT(tidemark_state_wait_any(state, marks, 2, -1, &shard, &failure), 0);
    CHECK_INT(shard, 3);
    CHECK_INT(tidemark_state_wait_for(state, 3, 10, 0.01, &failure), TIDEMARK_ETIMEOUT);
    tidemark_state_release(state);
}

/* Starts a child that does `body` at once and ends. */
static pid_t start(void (*body)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        (void)alarm(300);
        body();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    if (pid < 0) abort();
    return pid;
}

static void finish(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) abort();
    CHECK_INT(status, 0);
}

static void test_another_process_waits(void) {
    held = open_real(0);
    pid_t pid = start(wait_for_7);
    a_moment();
    CHECK_INT(tidemark_state_advance(held, 0, 6), 1);
    a_moment();
    CHECK_INT(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_INT(tidemark_state_advance(held, 0, 7), 1);
    a_moment();
    CHECK_INT(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_INT(tidemark_state_advance(held, 3, 5), 1);
    finish(pid);
    tidemark_state_release(held);
}

/* ---- both wait, in turn: no wake is lost ---- */

#define TURNS 5000

static void take_turns(uint32_t own, uint32_t other) {
    tidemark_state *state = open_real(0);
    int wrong = 0;
    for (int turn = 1; turn <= TURNS && wrong == 0; turn++) {
        wrong += tidemark_state_advance(state, own, turn) != 1;
        wrong += tidemark_state_wait_for(state, other, turn, -1, &failure) != 0;
    }
    CHECK_INT(wrong, 0);
    tidemark_state_release(state);
}

static void take_turns_as_child(void) {
    take_turns(3, 0);
}

static void test_in_turn(void) {
    pid_t pid = start(take_turns_as_child);
    take_turns(0, 3);
    finish(pid);
}

/* ---- the one who advances is killed between the exchange and the wake ---- */

static int steps_done; /* of those in wait.c: before a, after a (or b, which changes nothing), c, d, e */

/* An advance to 7, done by hand up to a step; and the end. */
static void advance_and_die(void) {
    held = open_real(0);
    struct tidemark_slot *slot = tidemark_state_slot(held, 0);
    while (atomic_load(&slot->waiter) == 0) a_moment();
    if (steps_done > 0) CHECK(tidemark_slot_advance(slot, 7));
    if (steps_done > 1) atomic_store(&slot->waiter, 0);
    if (steps_done > 2) (void)atomic_fetch_add(held->event, 1);
    if (steps_done > 3) (void)syscall(SYS_futex, held->event, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    (void)kill(getpid(), SIGKILL);
}

/* Who waits comes to know of the mark, and of later ones by another, wherever the first was killed. */
static void test_advancer_killed(void) {
    for (steps_done = 0; steps_done <= 4; steps_done++) {
        int status = 0;
        begin_test();
        held = open_real(0);
        pid_t waiter = start(wait_for_7), pid = start(advance_and_die);
        CHECK_INT(waitpid(pid, &status, 0), pid);
        CHECK(WIFSIGNALED(status));
        CHECK_INT(tidemark_state_applied_seqno(held, 0), steps_done > 0 ? 7 : 0);
        if (steps_done == 0) CHECK_INT(tidemark_state_advance(held, 0, 7), 1);
        CHECK_INT(tidemark_state_wait_for(held, 0, 7, -1, &failure), 0);
        CHECK_INT(tidemark_state_advance(held, 3, 5), 1);
        finish(waiter);
        tidemark_state_release(held);
    }
}

/* ---- a waiter is killed ---- */

static void wait_to_be_killed(void) {
    (void)tidemark_state_wait_for(open_real(0), 0, 1000, -1, &failure);
}

static void test_waiter_killed(void) {
    held = open_real(0);
    struct tidemark_slot *slot = tidemark_state_slot(held, 0);
    uint32_t before = atomic_load(held->event);
    pid_t pid = start(wait_to_be_killed);
    while (atomic_load(&slot->waiter) == 0) a_moment();
    (void)kill(pid, SIGKILL);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
    CHECK_INT(atomic_load(&slot->waiter), 1);
    for (int m = 1; m < 100; m++) CHECK_INT(tidemark_state_advance(held, 0, m), 1);
    CHECK_INT(atomic_load(&slot->waiter), 0);
    CHECK_INT(atomic_load(held->event) - before, 1); /* one wake, and one system call, in all */
    CHECK(held->event == &((struct tidemark_live *)((char *)held->slots - 65536))->event);
    tidemark_state_release(held);
}

/* ---- what it costs ---- */

static void test_a_second_asleep(void) {
    held = open_real(0);
    double before = cpu_seconds();
    CHECK_INT(tidemark_state_wait_for(held, 0, 1, 1, &failure), TIDEMARK_ETIMEOUT);
    CHECK(cpu_seconds() - before < 0.005);
    tidemark_state_release(held);
}

/* ---- who reads only ---- */

static void advance_in_a_moment(void) {
    tidemark_state *state = open_real(0);
    a_moment();
    CHECK_INT(tidemark_state_advance(state, 0, 7), 1);
    tidemark_state_release(state);
}

static void test_readonly(void) {
    held = open_real(0);
    tidemark_state *reader = open_real(TIDEMARK_OPEN_READONLY);
    pid_t pid = start(advance_in_a_moment);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 7, -1, &failure), 0);
    CHECK_INT(atomic_load(&tidemark_state_slot(held, 0)->waiter), 0);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 8, 0.05, &failure), TIDEMARK_ETIMEOUT);
    tidemark_state_interrupt(reader);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 8, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(tidemark_state_advance(reader, 0, 8), TIDEMARK_EREADONLY);
    finish(pid);
    tidemark_state_release(reader);
    CHECK_INT(save(held), 0);
    tidemark_state_release(held);
    /* one without a live file to follow, whose marks stand still */
    CHECK_INT(unlink(live_path), 0);
    reader = open_real(TIDEMARK_OPEN_READONLY);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 7, -1, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 8, 0.02, &failure), TIDEMARK_ETIMEOUT);
    tidemark_state_interrupt(reader);
    CHECK_INT(tidemark_state_wait_for(reader, 0, 8, -1, &failure), TIDEMARK_EINTERRUPTED);
    tidemark_state_release(reader);
}

/* ---- interrupts stay in their process and in their state ---- */

static void wait_or_be_interrupted(void) {
    CHECK_INT(tidemark_state_wait_for(held, 0, 7, -1, &failure), 0);
}

static void test_interrupts_are_a_process_s_own(void) {
    held = open_real(0);
    tidemark_state *other = open_real(0);
    pid_t pid = start(wait_or_be_interrupted); /* with what it inherited */
    while (atomic_load(&tidemark_state_slot(held, 0)->waiter) == 0) a_moment();
    tidemark_state_interrupt(held);
    CHECK_INT(tidemark_state_wait_for(other, 0, 7, 0.02, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_INT(tidemark_state_wait_for(held, 0, 7, -1, &failure), TIDEMARK_EINTERRUPTED);
    CHECK_INT(tidemark_state_advance(held, 0, 7), 1);
    finish(pid);
    tidemark_state_release(other);
    tidemark_state_release(held);
}

/* ---- the same path twice in one process; one of the two is closed while the other waits ---- */

static void *advance_and_release(void *state) {
    a_moment();
    CHECK_INT(tidemark_state_advance(state, 0, 7), 1);
    tidemark_state_release(state);
    return NULL;
}

static void test_opened_twice(void) {
    pthread_t thread;
    held = open_real(0);
    if (pthread_create(&thread, NULL, advance_and_release, open_real(0)) != 0) abort();
    CHECK_INT(tidemark_state_wait_for(held, 0, 7, -1, &failure), 0);
    (void)pthread_join(thread, NULL);
    tidemark_state_release(held);
}

/* ---- a shard that another adds while one waits for it ---- */

static void test_a_shard_to_come(void) {
    static const uint32_t more[] = {700};
    tidemark_state *state = NULL;
    held = open_real(0);
    CHECK_INT(tidemark_state_wait_for(held, 700, 1, 0, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_state_open(path, more, 1, 0, &state, &failure), 0);
    CHECK_INT(tidemark_state_wait_for(held, 700, 1, 0, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_state_advance(state, 700, 1), 1);
    CHECK_INT(tidemark_state_wait_for(held, 700, 1, -1, &failure), 0);
    tidemark_state_release(state);
    tidemark_state_release(held);
}

int main(void) {
    (void)alarm(300); /* instead of a wait without end */
    make_directory();
    RUN_EMPTY(test_another_process_waits);
    RUN_EMPTY(test_in_turn);
    RUN_EMPTY(test_advancer_killed);
    RUN_EMPTY(test_waiter_killed);
    RUN_EMPTY(test_a_second_asleep);
    RUN_EMPTY(test_readonly);
    RUN_EMPTY(test_interrupts_are_a_process_s_own);
    RUN_EMPTY(test_opened_twice);
    RUN_EMPTY(test_a_shard_to_come);
    return FINISH();
}
