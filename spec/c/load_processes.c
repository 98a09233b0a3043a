/* Load: four processes with a million advances each on one path, on one shard and on neighbours, and the same with one
 * of them killed a hundred times, at any moment. Marks are exact maxima, nobody sees one decrease, and who was killed
 * goes on from its own. */
#define _GNU_SOURCE /* fault_io.h */
#include <sys/mman.h>
#include <time.h>

#include "state_files.h"

#define PROCESSES 4
#define MANY      1000000
#define KILLS     100

static const uint32_t shards[PROCESSES + 1] = {0, 1, 2, 3, 4}; /* shard 4 is for all */

/* In memory that the processes share, so that it is known after a kill: the seqno that a process was about to advance
 * its shard to, the last one to which it has, and the highest mark of each shard that it has seen. */
struct progress {
    _Atomic(int64_t) last; /* when it has done this one it ends */
    _Atomic(int64_t) begun, done, seen[PROCESSES + 1];
};
static struct progress *progress; /* of each process */

/* Process `own` goes on from the mark of its shard and advances it to each m, and before it the shard for all where
 * `on_one`. */
static void advance_and_look(uint32_t own, bool on_one) {
    tidemark_state *state = NULL;
    struct progress *at = &progress[own];
    if (tidemark_state_open(path, shards, PROCESSES + 1, 0, &state, &failure) < 0) {
        printf("    process %u: %s\n", own, failure.message);
        _exit(2);
    }
    int64_t first = tidemark_state_applied_seqno(state, own);
    int wrong = first < at->done || first > at->begun; /* exactly what it did before it was killed */
    for (int64_t m = first + 1; m <= at->last; m++) {
        at->begun = m;
        if (on_one) wrong += tidemark_state_advance(state, PROCESSES, m * PROCESSES + own) < 0;
        wrong += tidemark_state_advance(state, own, m) != 1;
        at->done = m;
        uint32_t other = m % 2 == 0 ? PROCESSES : (uint32_t)(m / 2) % PROCESSES;
        int64_t mark = tidemark_state_applied_seqno(state, other);
        wrong += mark < at->seen[other];
        if (on_one && other == PROCESSES) wrong += mark < m * PROCESSES + own;
        at->seen[other] = mark;
        if (wrong > 0) {
            printf("    process %u: wrong at %lld, shard %u: %lld\n", own, (long long)m, other, (long long)mark);
            fflush(stdout);
            _exit(1);
        }
    }
    tidemark_state_release(state);
    _exit(wrong != 0);
}

static pid_t start(uint32_t own, bool on_one) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
        (void)alarm(300);
        advance_and_look(own, on_one);
    }
    return pid;
}

/* Kills the last process again and again, which has no end meanwhile; then it is given one. */
static void kill_again_and_again(pid_t *pid, bool on_one) {
    struct progress *at = &progress[PROCESSES - 1];
    srand((unsigned)time(NULL) ^ (unsigned)getpid());
    for (int kills = 0; kills < KILLS; kills++) {
        struct timespec pause = {0, rand() % 8000000}; /* sometimes it is not yet done opening */
        int status;
        (void)nanosleep(&pause, NULL);
        (void)kill(*pid, SIGKILL);
        if (waitpid(*pid, &status, 0) != *pid) abort();
        CHECK(WIFSIGNALED(status));
        if (kills == KILLS - 1) at->last = at->begun < MANY ? MANY : at->begun + 1000;
        *pid = start(PROCESSES - 1, on_one);
    }
}

static void run(bool on_one, bool with_kills) {
    pid_t pids[PROCESSES];
    int status;
    memset(progress, 0, PROCESSES * sizeof *progress);
    for (uint32_t own = 0; own < PROCESSES; own++) {
        progress[own].last = with_kills && own == PROCESSES - 1 ? INT64_MAX / PROCESSES - 1 : MANY;
        pids[own] = start(own, on_one);
    }
    if (with_kills) kill_again_and_again(&pids[PROCESSES - 1], on_one);
    for (int i = 0; i < PROCESSES; i++) {
        if (waitpid(pids[i], &status, 0) != pids[i]) abort();
        CHECK_INT(status, 0);
    }
    tidemark_state *state = NULL;
    CHECK_INT(tidemark_state_open(path, NULL, 0, TIDEMARK_OPEN_EXISTING, &state, &failure), 0);
    if (state == NULL) return;
    for (uint32_t own = 0; own < PROCESSES; own++)
        CHECK_INT(tidemark_state_applied_seqno(state, own), progress[own].last);
    int64_t most = progress[PROCESSES - 1].last * PROCESSES + PROCESSES - 1;
    CHECK_INT(tidemark_state_applied_seqno(state, PROCESSES), on_one ? most : 0);
    CHECK_INT(save(state), 0);
    tidemark_state_release(state);
}

static void neighbours(void) {
    run(false, false);
}

static void one_shard(void) {
    run(true, false);
}

static void neighbours_with_one_killed(void) {
    run(false, true);
}

static void one_shard_with_one_killed(void) {
    run(true, true);
}

int main(void) {
    make_directory();
    progress = mmap(NULL, PROCESSES * sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) abort();
    RUN_EMPTY(neighbours);
    RUN_EMPTY(one_shard);
    RUN_EMPTY(neighbours_with_one_killed);
    RUN_EMPTY(one_shard_with_one_killed);
    return FINISH();
}
