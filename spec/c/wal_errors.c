/* A system call of the writer that fails, once or for good: what was acknowledged stays, what was refused never
 * appears, and a writer whose sync failed writes nothing more. Nothing leaks. */
#define _GNU_SOURCE
#include "wal_files.h"

#define SEGMENT_BYTES 1000

static bool poisoned; /* the last writer that ended */

static void append_round(tidemark_wal *wal) {
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        bool before = wal->poisoned;
        int code = log_append(wal, log_shards[i]);
        if (before) CHECK_INT(code, TIDEMARK_EPOISONED);
    }
}

/* A writer's life: whatever fails, it goes on as a caller may. */
static void life(int unsynced) {
    tidemark_wal_options options = log_options(SEGMENT_BYTES, unsynced);
    int code;
    tidemark_wal *wal = open_log(&options, &code);
    poisoned = false;
    if (wal == NULL) return;
    for (int i = 0; i < 3; i++) append_round(wal);
    if (unsynced) (void)log_sync(wal);
    (void)tidemark_wal_prune_io(log_io, directory, 2, model->acked[2] - 1, &failure);
    append_round(wal);
    if (unsynced) (void)log_sync(wal);
    poisoned = wal->poisoned;
    code = tidemark_wal_close(wal, &failure);
    if (poisoned) CHECK_INT(code, TIDEMARK_EPOISONED);
}

static void settle(unsigned loss) {
    fault_clear();
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
    note_visible();
    if (loss != FAULT_LOSE_NOTHING) restart(loss);
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
    adopt_log();
    append_round(wal);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    check_log();
    CHECK_INT(fault->descriptors, 0);
}

/* Call n of a life fails, for every n. */
static void sweep(enum fault_mode mode, int code, int unsynced, unsigned only, unsigned loss) {
    unsigned at = 0;
    bool failed = true;
    int descriptors = count_descriptors();
    while (failed && check_failures == 0) {
        begin_log_test();
        life(unsynced); /* there is a past */
        model->epoch = 0;
        fault_set(mode, ++at, code, only);
        life(unsynced);
        failed = fault->failed > 0;
        settle(loss);
        if (check_failures != 0) printf("    mode %d, errno %d, call %u\n", (int)mode, code, at);
    }
    CHECK_INT(count_descriptors(), descriptors);
    printf("    %u calls\n", at);
}

/* Not the locks of the heads: one whose release fails is held until the writer ends, and readers wait for it. */
#define ANY_CALL ~(1u << FAULT_LOCK)

static void eio_once(void) {
    sweep(FAULT_ONCE, EIO, 0, ANY_CALL, FAULT_LOSE_NOTHING);
}

static void eio_once_unsynced(void) {
    sweep(FAULT_ONCE, EIO, 1, ANY_CALL, FAULT_LOSE_ALL);
}

static void eio_for_good(void) {
    sweep(FAULT_FOR_GOOD, EIO, 0, ANY_CALL, FAULT_LOSE_ALL);
}

/* What a full disk refuses. */
static void enospc(void) {
    unsigned only = 1u << FAULT_PWRITE | 1u << FAULT_OPENAT;
    sweep(FAULT_ONCE, ENOSPC, 0, only, FAULT_LOSE_ALL);
    sweep(FAULT_FOR_GOOD, ENOSPC, 0, only, FAULT_LOSE_NOTHING);
}

/* ---- short writes and interruptions ---- */

static void short_and_interrupted(void) {
    fault->most = 7;
    fault->interrupts = true;
    for (int i = 0; i < 2; i++) {
        life(i);
        CHECK(!poisoned);
    }
    CHECK(fault->interrupted > 100);
    check_log();
    settle(FAULT_LOSE_ALL);
}

/* A batch that ends in zeros, half written where zeros stand already, looks whole. */
static void half_a_batch_that_looks_whole(void) {
    static const char zeros[200];
    tidemark_record record = {zeros, sizeof zeros};
    uint32_t batches[2];
    for (int cut_fails = 0; cut_fails < 2; cut_fails++) {
        begin_log_test();
        tidemark_wal *wal = open_log_or_stop(1 << 16, 0);
        int64_t last;
        for (int i = 0; i < 8; i++) CHECK_INT(tidemark_wal_append(wal, 1, &record, 1, NULL, &last, &failure), 0);
        fault->most = 100;
        fault_set(cut_fails ? FAULT_FOR_GOOD : FAULT_ONCE, 2, EIO,
                  1u << FAULT_PWRITE | (cut_fails ? 1u << FAULT_FTRUNCATE : 0));
        CHECK_INT(tidemark_wal_append(wal, 1, &record, 1, NULL, NULL, &failure), TIDEMARK_EIO);
        CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), last);
        fault_clear();
        /* where it could not be cut off, the writer says that it may be there */
        CHECK_INT(tidemark_wal_append(wal, 2, &record, 1, NULL, NULL, &failure), cut_fails ? TIDEMARK_EPOISONED : 0);
        abandon(wal);
        if (!cut_fails) restart(FAULT_LOSE_ALL);
        wal = open_log_or_stop(1 << 16, 0);
        batches[cut_fails] = (uint32_t)tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1);
        CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    }
    CHECK_INT(batches[0], 8);
    CHECK(batches[1] >= 8);
}

/* ---- syncs ---- */

/* Each sync of an append that fails poisons; the records may be there later, and readers have not seen them. */
static void a_failed_sync_poisons(void) {
    unsigned only = 1u << FAULT_FDATASYNC | 1u << FAULT_FSYNC;
    for (unsigned at = 1;; at++) {
        begin_log_test();
        tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
        append_round(wal);
        int64_t head = tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1);
        fault_set(FAULT_ONCE, at, EIO, only);
        int code = 0;
        for (int i = 0; code == 0 && i < 6; i++) code = log_append(wal, 1);
        bool through = fault->failed == 0;
        if (!through) {
            CHECK_INT(code, TIDEMARK_EIO);
            CHECK(wal->poisoned);
            CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), model->acked[1]);
            CHECK(model->acked[1] >= head);
            CHECK_INT(log_append(wal, 1), TIDEMARK_EPOISONED);
            CHECK_INT(log_append(wal, 2), TIDEMARK_EPOISONED);
            CHECK_INT(tidemark_wal_sync(wal, &failure), TIDEMARK_EPOISONED);
            CHECK_INT(tidemark_wal_close(wal, &failure), TIDEMARK_EPOISONED);
        } else {
            abandon(wal);
        }
        fault_clear(); /* the next writer finds in the page cache what no later sync will write, and makes it durable */
        wal = open_log_or_stop(SEGMENT_BYTES, 0);
        adopt_log();
        abandon(wal);
        settle(FAULT_LOSE_ALL);
        if (through || check_failures != 0) break;
    }
}

/* Heads wait for the sync, also where more segments are written than can be open. */
static void heads_wait_for_the_sync(void) {
    enum { SHARDS = 100 };
    uint32_t shards[SHARDS];
    tidemark_record record = {"x", 1};
    for (uint32_t i = 0; i < SHARDS; i++) shards[i] = i;
    tidemark_wal_options options = {.shards = shards, .shard_count = SHARDS, .unsynced = 1, .segment_bytes = 300};
    int code, durable = 0;
    tidemark_wal *wal = open_log(&options, &code);
    for (uint32_t i = 0; i < SHARDS; i++) CHECK_INT(tidemark_wal_append(wal, i, &record, 1, NULL, NULL, &failure), 0);
    for (uint32_t i = 0; i < SHARDS; i++) durable += tidemark_state_applied_seqno(tidemark_wal_heads(wal), i) > 0;
    CHECK_INT(durable, SHARDS - TIDEMARK_WAL_FILES); /* those whose file had to be closed */
    CHECK(fault->descriptors < TIDEMARK_WAL_FILES + 8);
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    for (uint32_t i = 0; i < SHARDS; i++) CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), i), 1);
    for (uint32_t i = 0; i < SHARDS; i++) CHECK_INT(tidemark_wal_append(wal, i, &record, 1, NULL, NULL, &failure), 0);
    uint32_t heads[SHARDS];
    for (uint32_t i = 0; i < SHARDS; i++) heads[i] = (uint32_t)tidemark_state_applied_seqno(tidemark_wal_heads(wal), i);
    abandon(wal);
    restart(FAULT_LOSE_ALL);
    wal = open_log(&options, &code);
    CHECK_INT(code, 0);
    for (uint32_t i = 0; i < SHARDS; i++) CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), i), heads[i]);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* A writer that is killed when it has made the directory, and another that goes on in it. */
static void the_name_of_the_directory(void) {
    char outer[sizeof directory];
    (void)snprintf(outer, sizeof outer, "%s", directory);
    (void)strcat(directory, "/log");
    CHECK_INT(fault_io.mkdirat(AT_FDCWD, directory, 0700), 0);
    CHECK_INT(fault->names, 1);
    tidemark_wal *wal = open_log_or_stop(0, 0);
    for (size_t i = 0; i < fault->names; i++) CHECK(strcmp(fault->name[i].name, "a new directory") != 0);
    abandon(wal);
    remove_all();
    (void)rmdir(directory);
    (void)snprintf(directory, sizeof directory, "%s", outer);
}

int main(void) {
    make_directory();
    RUN_LOG(eio_once);
    RUN_LOG(eio_once_unsynced);
    RUN_LOG(eio_for_good);
    RUN_LOG(enospc);
    RUN_LOG(short_and_interrupted);
    RUN_LOG(half_a_batch_that_looks_whole);
    RUN_LOG(a_failed_sync_poisons);
    RUN_LOG(heads_wait_for_the_sync);
    RUN_LOG(the_name_of_the_directory);
    return FINISH();
}
