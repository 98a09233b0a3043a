/* Four threads on one state through the C API: marks are exact maxima, never seen to decrease, and publish what was
 * written before them. Run under ThreadSanitizer as well. */
#define _XOPEN_SOURCE 700 /* barriers */
#include "state_threads.h"

#define STEPS 100000

/* ---- every thread advances every shard ---- */

/* A sequence of its own for each thread and shard, growing on the whole with steps back. */
static int64_t seqno_at(int thread, uint32_t shard, int step) {
    uint32_t mixed = ((uint32_t)step * 2654435761u) ^ ((uint32_t)thread * 40503u + shard * 977u);
    return (int64_t)step * 3 + (mixed >> 16) % 64;
}

static void *advance_all_shards(void *number) {
    const int own = *(int *)number;
    int64_t seen[THREADS] = {0};
    long wrong = 0;
    for (int step = 0; step < STEPS; step++) {
        for (uint32_t shard = 0; shard < THREADS; shard++) {
            int64_t seqno = seqno_at(own, shard, step);
            int moved = tidemark_state_advance(shared, shard, seqno);
            int64_t mark = tidemark_state_applied_seqno(shared, shard);
            wrong +=
                mark < seen[shard] || mark < seqno || (moved && seqno <= seen[shard]) || (moved != 0 && moved != 1);
            seen[shard] = mark;
        }
    }
    return (void *)wrong;
}

static void marks_are_exact_maxima(void) {
    begin();
    CHECK_INT(on_threads(advance_all_shards), 0);
    for (uint32_t shard = 0; shard < THREADS; shard++) {
        int64_t most = 0;
        for (int thread = 0; thread < THREADS; thread++) {
            for (int step = 0; step < STEPS; step++) {
                int64_t seqno = seqno_at(thread, shard, step);
                if (seqno > most) most = seqno;
            }
        }
        CHECK_INT(tidemark_state_applied_seqno(shared, shard), most);
    }
    tidemark_state_release(shared);
}

/* ---- who moved the mark ---- */

static unsigned char moved_by[THREADS][STEPS + 1];

static void *advance_one_shard(void *number) {
    for (int seqno = 1; seqno <= STEPS; seqno++)
        moved_by[*(int *)number][seqno] = tidemark_state_advance(shared, 0, seqno) == 1;
    return NULL;
}

/* All threads advance through the same seqnos: none may be moved to by two, and the last one was moved to. They must
 * meet within nanoseconds to show a fault, so this is done several times. */
static void one_thread_moves_to_a_mark(void) {
    for (int round = 0; round < 20; round++) {
        int wrong = 0;
        begin();
        (void)on_threads(advance_one_shard);
        for (int seqno = 1; seqno <= STEPS; seqno++) {
            int moved = 0;
            for (int thread = 0; thread < THREADS; thread++) moved += moved_by[thread][seqno];
            wrong += moved > 1 || (seqno == STEPS && moved != 1);
        }
        CHECK_INT(wrong, 0);
        CHECK_INT(tidemark_state_applied_seqno(shared, 0), STEPS);
        tidemark_state_release(shared);
    }
}

/* ---- copies while others advance ---- */

static void *advance_and_copy(void *number) {
    const int own = *(int *)number;
    tidemark_mark marks[THREADS], copies[THREADS], before[THREADS];
    char bytes[TIDEMARK_CHECKPOINT_SIZE(THREADS)];
    static const uint32_t shards[THREADS] = {0, 1, 2, 3};
    long wrong = 0;
    (void)tidemark_state_snapshot(shared, before, THREADS);
    for (int step = 1; step <= STEPS / 100; step++) {
        tidemark_state *clone, *read;
        for (uint32_t shard = 0; shard < THREADS; shard++) {
            marks[shard].shard = shard;
            marks[shard].seqno = step * 5 + own;
        }
        wrong += tidemark_state_advance_all(shared, marks, THREADS, NULL) < 0;
        if (tidemark_state_clone(shared, &clone, NULL) != 0) abort();
        int64_t length = tidemark_state_to_checkpoint_bytes(shared, bytes, sizeof bytes);
        if (tidemark_state_from_checkpoint_bytes(bytes, (size_t)length, shards, THREADS, &read, NULL) != 0) abort();
        (void)tidemark_state_snapshot(shared, copies, THREADS);
        for (uint32_t shard = 0; shard < THREADS; shard++) {
            int64_t cloned = tidemark_state_applied_seqno(clone, shard),
                    written = tidemark_state_applied_seqno(read, shard);
            wrong += cloned < before[shard].seqno || cloned < marks[shard].seqno || written < cloned ||
                     copies[shard].seqno < written || copies[shard].shard != shard;
        }
        memcpy(before, copies, sizeof before);
        tidemark_state_release(clone);
        tidemark_state_release(read);
    }
    return (void *)wrong;
}

static void copies_never_go_back(void) {
    begin();
    CHECK_INT(on_threads(advance_and_copy), 0);
    for (uint32_t shard = 0; shard < THREADS; shard++)
        CHECK_INT(tidemark_state_applied_seqno(shared, shard), STEPS / 100 * 5 + THREADS - 1);
    tidemark_state_release(shared);
}

int main(void) {
    RUN(marks_are_exact_maxima);
    RUN(one_thread_moves_to_a_mark);
    RUN(copies_never_go_back);
    RUN(a_mark_publishes);
    RUN(a_mark_publishes_in_turn);
    RUN(a_stale_advance_acquires);
    RUN(the_last_reference_frees);
    return FINISH();
}
