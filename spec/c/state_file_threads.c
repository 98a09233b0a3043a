/* Threads on one path: on one handle and on handles of their own they advance, save, read notes, open and close. */
#define _GNU_SOURCE /* fault_io.h */
#include <pthread.h>

#include "state_files.h"

#define THREADS 4
#define ROUNDS  150

static tidemark_state *shared;
static const char *error_of[THREADS]; /* the first thing that went wrong */

static void wrong(int number, const char *what) {
    if (error_of[number] == NULL) error_of[number] = what;
}

/* Thread `number` owns shard `number`. Its note is the mark that it last saved. */
static void *work(void *argument) {
    int number = *(const int *)argument;
    uint32_t shard = (uint32_t)number;
    tidemark_state *state = tidemark_state_retain(shared);
    for (int64_t mark = 1; mark <= ROUNDS; mark++) {
        char note[TIDEMARK_NOTE_MAX];
        tidemark_note own = {shard, sizeof mark, &mark};
        if (mark % 10 == 0) { /* another handle, or the shared one again */
            tidemark_state_release(state);
            if (mark % 20 == 0) state = tidemark_state_retain(shared);
            else if (tidemark_state_open(path, &shard, 1, 0, &state, NULL) < 0) {
                wrong(number, "open");
                return NULL;
            }
        }
        if (tidemark_state_advance(state, shard, mark) != 1) wrong(number, "advance");
        if (tidemark_state_checkpoint(state, &own, 1, NULL) < 0) wrong(number, "checkpoint");
        if (tidemark_state_note(state, shard, note, NULL) != sizeof mark || memcmp(note, &mark, sizeof mark) != 0)
            wrong(number, "note");
        (void)tidemark_state_note(state, (shard + 1) % THREADS, note, NULL);
    }
    tidemark_state_release(state);
    return NULL;
}

static void test_threads(void) {
    static const uint32_t shards[THREADS] = {0, 1, 2, 3};
    static const int numbers[THREADS] = {0, 1, 2, 3};
    pthread_t threads[THREADS];
    CHECK_INT(tidemark_state_open(path, shards, THREADS, 0, &shared, &failure), 0);
    if (shared == NULL) return;
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_create(&threads[i], NULL, work, (void *)&numbers[i]), 0);
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++) CHECK_STR(error_of[i] != NULL ? error_of[i] : "", "");
    tidemark_state_release(shared);
    CHECK_INT(unlink(live_path), 0);
    CHECK_INT(tidemark_state_open(path, NULL, 0, TIDEMARK_OPEN_EXISTING, &shared, &failure), 0);
    for (uint32_t i = 0; i < THREADS; i++) CHECK_INT(tidemark_state_applied_seqno(shared, i), ROUNDS);
    tidemark_state_release(shared);
}

/* All at once make the files. */
static void *open_first(void *argument) {
    int number = *(const int *)argument;
    uint32_t shard = (uint32_t)number;
    tidemark_state *state;
    if (tidemark_state_open(path, &shard, 1, 0, &state, NULL) < 0) {
        wrong(number, "open");
        return NULL;
    }
    if (tidemark_state_advance(state, shard, 7) != 1) wrong(number, "advance");
    tidemark_state_release(state);
    return NULL;
}

static void test_first_opening_at_once(void) {
    static const int numbers[THREADS] = {0, 1, 2, 3};
    for (int round = 0; round < 30; round++) {
        pthread_t threads[THREADS];
        remove_all();
        for (int i = 0; i < THREADS; i++)
            CHECK_INT(pthread_create(&threads[i], NULL, open_first, (void *)&numbers[i]), 0);
        for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
        for (int i = 0; i < THREADS; i++) CHECK_STR(error_of[i] != NULL ? error_of[i] : "", "");
        CHECK_INT(tidemark_state_open(path, NULL, 0, TIDEMARK_OPEN_EXISTING, &shared, &failure), 0);
        for (uint32_t i = 0; i < THREADS; i++) CHECK_INT(tidemark_state_applied_seqno(shared, i), 7);
        tidemark_state_release(shared);
        CHECK(!exists(new_path));
    }
}

int main(void) {
    make_directory();
    RUN_EMPTY(test_threads);
    RUN_EMPTY(test_first_opening_at_once);
    return FINISH();
}
