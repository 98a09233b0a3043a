/* Load: four threads with a million advances each, on one shard and on neighbours, of states in memory and with files.
 * Marks are exact maxima and nobody sees one decrease. Under ThreadSanitizer with fewer. */
#define _GNU_SOURCE /* fault_io.h */
#include "state_files.h"
#include "state_threads.h"

#define MANY (SLOW ? 30000 : 1000000)

static bool one_shard; /* all on shard 0, or each on its own */

static void *advance_and_look(void *number) {
    const int own = *(int *)number;
    const uint32_t shard = one_shard ? 0 : (uint32_t)own;
    int64_t seen[THREADS] = {0};
    long wrong = 0, moved = 0;
    for (int64_t m = 1; m <= MANY; m++) {
        int64_t seqno = m * THREADS + own;
        int result = tidemark_state_advance(shared, shard, seqno);
        wrong += result < 0 || (result == 1 && seqno <= seen[shard]);
        moved += result;
        uint32_t other = m % 2 == 0 ? shard : (uint32_t)m / 2 % THREADS;
        int64_t mark = tidemark_state_applied_seqno(shared, other);
        wrong += mark < seen[other] || (other == shard && mark < seqno);
        seen[other] = mark;
    }
    return (void *)(wrong + (!one_shard && moved != MANY));
}

static void load(void) {
    for (int turn = 0; turn < 2; turn++) {
        one_shard = turn == 1; /* after the other, so that its seqnos begin below the mark */
        CHECK_INT(on_threads(advance_and_look), 0);
        for (uint32_t shard = 0; shard < THREADS; shard++)
            CHECK_INT(tidemark_state_applied_seqno(shared, shard),
                      MANY * THREADS + (int)(one_shard && shard == 0 ? THREADS - 1 : shard));
    }
}

static void one_shard_first(void) {
    one_shard = true;
    CHECK_INT(on_threads(advance_and_look), 0);
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), MANY * THREADS + THREADS - 1);
    CHECK_INT(tidemark_state_applied_seqno(shared, 1), 0);
}

static void open_shared(void) {
    static const uint32_t shards[THREADS] = {0, 1, 2, 3};
    CHECK_INT(tidemark_state_open(path, shards, THREADS, 0, &shared, &failure), 0);
    if (shared == NULL) exit(1);
}

static void in_memory(void) {
    begin();
    one_shard_first();
    tidemark_state_release(shared);
    begin();
    load();
    tidemark_state_release(shared);
}

static void with_files(void) {
    open_shared();
    one_shard_first();
    tidemark_state_release(shared);
    remove_all();
    open_shared();
    load();
    CHECK_INT(save(shared), 0);
    tidemark_state_release(shared);
    CHECK_INT(unlink(live_path), 0);
    open_shared(); /* of the checkpoint */
    CHECK_INT(tidemark_state_applied_seqno(shared, 0), MANY * THREADS + THREADS - 1);
    tidemark_state_release(shared);
}

int main(void) {
    make_directory();
    RUN_EMPTY(in_memory);
    RUN_EMPTY(with_files);
    return FINISH();
}
