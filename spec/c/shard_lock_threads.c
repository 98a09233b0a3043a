/* One follower per shard: between threads that share a state, objects of one path, and a forked child. */
#define _XOPEN_SOURCE 700
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "tidemark.h"

#define THREADS 4
#define ROUNDS  5000

static const uint32_t shards[] = {0, 63, 64, 65535};
static char path[] = "/tmp/tidemark-spec.XXXXXX/state";

/* ---- mutual exclusion ---- */

struct race {
    tidemark_state *state;
    volatile int inside; /* how many followers; plain: the lock must order the threads */
    long long turns;
    _Atomic(int) wrong;
};

static void *take_turns(void *argument) {
    struct race *race = argument;
    tidemark_state *state = race->state;
    for (int i = 0; i < ROUNDS; i++) {
        int code = tidemark_state_lock_shard(state, 64, NULL);
        if (code == TIDEMARK_ELOCKED) continue;
        if (code != 0 || race->inside++ != 0) atomic_store(&race->wrong, 1);
        race->turns++;
        (void)sched_yield(); /* others try while this one is inside */
        race->inside--;
        tidemark_state_unlock_shard(state, 64);
    }
    return NULL;
}

static void run_race(struct race *race) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, take_turns, race) == 0);
    for (int i = 0; i < THREADS; i++) (void)pthread_join(threads[i], NULL);
    CHECK_INT(race->wrong, 0);
    CHECK(race->turns > 0);
    CHECK_INT(tidemark_state_lock_shard(race->state, 64, NULL), 0);
}

static void threads_share_a_state_in_memory(void) {
    struct race race = {0};
    CHECK_INT(tidemark_state_new(shards, 4, &race.state, NULL), 0);
    run_race(&race);
    tidemark_state_release(race.state);
}

static void threads_share_a_state_of_files(void) {
    struct race race = {0};
    CHECK_INT(tidemark_state_open(path, shards, 4, 0, &race.state, NULL), 0);
    run_race(&race);
    tidemark_state_release(race.state);
}

/* ---- one thread, all results ---- */

static void check_results(tidemark_state *state, tidemark_state *other) {
    tidemark_error error;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) CHECK_INT(tidemark_state_lock_shard(state, shards[i], &error), 0);
        for (int i = 0; i < 4; i++) {
            CHECK_INT(tidemark_state_lock_shard(other, shards[i], &error), TIDEMARK_ELOCKED);
            CHECK_INT(error.code, TIDEMARK_ELOCKED);
        }
        CHECK(strstr(error.message, "shard 65535 has ") != NULL);
        /* who has not locked it takes nothing away */
        if (state != other) tidemark_state_unlock_shard(other, 63);
        CHECK_INT(tidemark_state_lock_shard(other, 63, NULL), TIDEMARK_ELOCKED);
        tidemark_state_unlock_shard(state, 63);
        tidemark_state_unlock_shard(state, 63);
        CHECK_INT(tidemark_state_lock_shard(other, 64, NULL), TIDEMARK_ELOCKED);
        CHECK_INT(tidemark_state_lock_shard(other, 63, NULL), 0);
        CHECK_INT(tidemark_state_lock_shard(state, 63, NULL), TIDEMARK_ELOCKED);
        tidemark_state_unlock_shard(other, 63);
        for (int i = 0; i < 4; i++) tidemark_state_unlock_shard(state, shards[i]);
    }
    CHECK_INT(tidemark_state_lock_shard(state, 1, &error), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_state_lock_shard(state, 65536, &error), TIDEMARK_EINVAL);
    tidemark_state_unlock_shard(state, 1);
    tidemark_state_unlock_shard(state, 65536);
    CHECK_INT(tidemark_state_advance(other, 64, tidemark_state_applied_seqno(state, 64) + 1), 1);
}

static void one_state_in_memory(void) {
    tidemark_state *state, *clone;
    CHECK_INT(tidemark_state_new(shards, 4, &state, NULL), 0);
    check_results(state, state);
    CHECK_INT(tidemark_state_lock_shard(state, 0, NULL), 0);
    CHECK_INT(tidemark_state_clone(state, &clone, NULL), 0);
    CHECK_INT(tidemark_state_lock_shard(clone, 0, NULL), 0); /* another state */
    tidemark_state_release(clone);
    tidemark_state_release(state);
}

static void two_objects_of_one_path(void) {
    tidemark_state *one, *two, *reader;
    tidemark_error error;
    CHECK_INT(tidemark_state_open(path, shards, 4, 0, &one, NULL), 0);
    CHECK_INT(tidemark_state_open(path, shards, 4, 0, &two, NULL), 0);
    check_results(one, one);
    check_results(one, two);
    CHECK_INT(tidemark_state_lock_shard(one, 0, NULL), 0);
    CHECK_INT(tidemark_state_checkpoint(two, NULL, 0, NULL), 0); /* a save leaves it */
    CHECK_INT(tidemark_state_lock_shard(two, 0, &error), TIDEMARK_ELOCKED);
    CHECK(strstr(error.message, path) != NULL);
    CHECK_INT(tidemark_state_open(path, NULL, 0, TIDEMARK_OPEN_READONLY, &reader, NULL), 0);
    CHECK_INT(tidemark_state_lock_shard(reader, 0, &error), TIDEMARK_EREADONLY);
    tidemark_state_unlock_shard(reader, 0);
    tidemark_state_release(reader); /* closing another descriptor of the file leaves it */
    CHECK_INT(tidemark_state_lock_shard(two, 0, NULL), TIDEMARK_ELOCKED);
    tidemark_state_release(one);
    CHECK_INT(tidemark_state_lock_shard(two, 0, NULL), 0);
    tidemark_state_release(two);
}

static void a_forked_child(void) {
    tidemark_state *state, *other;
    int status = 0;
    CHECK_INT(tidemark_state_open(path, shards, 4, 0, &state, NULL), 0);
    CHECK_INT(tidemark_state_open(path, shards, 4, 0, &other, NULL), 0);
    CHECK_INT(tidemark_state_lock_shard(state, 0, NULL), 0);
    pid_t child = fork();
    if (child == 0) {
        int ok = tidemark_state_lock_shard(state, 63, NULL) == TIDEMARK_EFORKED;
        tidemark_state_unlock_shard(state, 0); /* must not take the parent's */
        tidemark_state_release(state);
        _exit(ok ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_INT(tidemark_state_lock_shard(other, 0, NULL), TIDEMARK_ELOCKED);
    CHECK_INT(tidemark_state_lock_shard(other, 63, NULL), 0);
    tidemark_state_release(other);
    tidemark_state_release(state);
}

int main(void) {
    char directory[sizeof path];
    char *slash = strrchr(path, '/');
    *slash = '\0';
    if (mkdtemp(path) == NULL) return 1;
    memcpy(directory, path, sizeof directory);
    *slash = '/';
    RUN(threads_share_a_state_in_memory);
    RUN(threads_share_a_state_of_files);
    RUN(one_state_in_memory);
    RUN(two_objects_of_one_path);
    RUN(a_forked_child);
    (void)unlink(path);
    char live[sizeof path + sizeof ".live"];
    (void)snprintf(live, sizeof live, "%s.live", path);
    (void)unlink(live);
    return rmdir(directory) != 0 || FINISH();
}
