/* A writer that is killed at any system call, with and without a loss of power after it: what was acknowledged or seen
 * by a reader is there, what was refused is not, and the log can be opened, written and verified. */
#define _GNU_SOURCE
#include "wal_files.h"

#define SEGMENT_BYTES 700

#ifdef __SANITIZE_ADDRESS__
#define STEP 4 /* a child costs five times as much there; the memory errors that it looks for are in all of them */
#else
#define STEP 1
#endif

/* ---- scenarios: what the writer does that is killed ---- */

static void append_round(tidemark_wal *wal) {
    for (size_t i = 0; i < LOG_SHARDS; i++) (void)log_append(wal, log_shards[i]);
}

static void nothing(void) {
}

static void first_open(void) {
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
    append_round(wal);
    (void)tidemark_wal_close(wal, &failure);
}

/* Appends, rotations, a prune and a close. */
static void synced_life(void) {
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
    for (int i = 0; i < 3; i++) append_round(wal);
    (void)tidemark_wal_prune_io(log_io, directory, 2, model->acked[2] - 1, &failure);
    (void)log_append(wal, 2);
    (void)tidemark_wal_close(wal, &failure);
}

static void unsynced_life(void) {
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 1);
    for (int i = 0; i < 3; i++) append_round(wal);
    (void)log_sync(wal);
    append_round(wal);
    (void)log_sync(wal);
    append_round(wal);
    (void)tidemark_wal_close(wal, &failure);
}

/* Leaves what a killed writer leaves: whole batches above the heads, a torn one (shard 2), a segment without a batch
 * (shard 5). */
static void leave_a_mess(void) {
    first_open();
    tidemark_wal *wal = open_log_or_stop(4 * SEGMENT_BYTES, 1);
    append_round(wal);
    (void)log_sync(wal);
    for (int i = 0; i < 3; i++) append_round(wal);
    const struct tidemark_wal_shard *torn = &wal->shards[1];
    (void)log_append(wal, 2);
    int fd = torn->file->fd;
    unsigned char bytes[100];
    memset(bytes, 0xAB, sizeof bytes);
    (void)fault_io.pwrite(fd, "TMWB\2", 5, torn->offset);
    (void)fault_io.pwrite(fd, bytes, sizeof bytes, torn->offset + 64);
    int64_t last = wal->shards[2].last_seqno;
    abandon(wal);
    wal = open_log_or_stop(SEGMENT_BYTES, 0);
    CHECK(tidemark_wal_recovery(wal, 0) != NULL);
    adopt_log();
    (void)log_append(wal, 1);
    abandon(wal);
    put_bytes(segment_path(5, last + 1), 0, "TMWB", 4);
    wal = open_log_or_stop(4 * SEGMENT_BYTES, 1); /* removes that segment, and dies again with a mess */
    (void)log_append(wal, 2);                     /* at the head, with a torn one behind it */
    (void)log_sync(wal);
    (void)log_append(wal, 1);
    fd = wal->shards[1].file->fd;
    (void)fault_io.pwrite(fd, bytes, sizeof bytes, wal->shards[1].offset + 32);
    (void)fault_io.fdatasync(fd); /* the system may write it at any time */
    last = wal->shards[2].last_seqno;
    abandon(wal);
    put_bytes(segment_path(5, last + 1), 0, "TMWB", 4);
}

static void leave_a_mess_and_restart(void) {
    leave_a_mess();
    restart(FAULT_LOSE_NOTHING);
}

static void recovery(void) {
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
    append_round(wal);
    (void)tidemark_wal_close(wal, &failure);
}

/* ---- what comes after the kill ---- */

static void reopen_and_write(bool close_it) {
    tidemark_wal *wal = open_log_or_stop(SEGMENT_BYTES, 0);
    adopt_log();
    append_round(wal);
    if (close_it) CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    else abandon(wal);
    check_log();
}

enum after { AFTER_LOSS, AFTER_PART_LOSS, AFTER_BOTH };

static void go_on(enum after after, unsigned seed) {
    note_visible();
    if (after == AFTER_LOSS) restart(FAULT_LOSE_ALL);
    if (after == AFTER_PART_LOSS) restart(seed);
    if (after == AFTER_BOTH) { /* a second writer recovers and is killed, and then the power fails */
        reopen_and_write(false);
        note_visible();
        restart(FAULT_LOSE_ALL);
    }
    reopen_and_write(true);
}

static enum fault_mode kill_mode;
static unsigned kill_at;
static void (*killed)(void);

static void run_killed(void) {
    fault_set(kill_mode, kill_at, EIO, kill_mode == FAULT_KILL_HALFWAY ? 1u << FAULT_PWRITE : 0);
    killed();
    _exit(check_failures != 0 ? 1 : 42);
}

/* Runs `scenario` in a child that is killed at call n, for every n. */
static void sweep_calls(const char *name, void (*before)(void), enum fault_mode mode, enum after after) {
    bool through = false;
    unsigned at = 0;
    kill_mode = mode;
    while (!through && check_failures == 0) {
        begin_log_test();
        before();
        kill_at = at += STEP;
        int status = in_child(run_killed);
        through = WIFEXITED(status) && WEXITSTATUS(status) == 42;
        if (through) check_failures--; /* in_child takes 42 for a failure */
        CHECK(through || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
        fault_clear();
        go_on(after, at * 2 + 1);
    }
    printf("    %s: %u calls\n", name, at);
}

/* Before each call, and halfway through each write (of which then all is lost, as if it had not begun, or a part). */
static void sweep(const char *name, void (*before)(void), void (*scenario)(void)) {
    killed = scenario;
    sweep_calls(name, before, FAULT_KILL_BEFORE, AFTER_LOSS);
    sweep_calls(name, before, FAULT_KILL_BEFORE, AFTER_BOTH);
    sweep_calls(name, before, FAULT_KILL_HALFWAY, AFTER_PART_LOSS);
    sweep_calls(name, before, FAULT_KILL_HALFWAY, AFTER_BOTH);
}

static void killed_while_it_appends(void) {
    sweep("synced_life", nothing, synced_life);
}

static void killed_in_unsynced_mode(void) {
    sweep("unsynced_life", first_open, unsynced_life);
}

static void killed_in_recovery(void) {
    sweep("recovery", leave_a_mess, recovery);
}

static void killed_in_recovery_after_a_restart(void) {
    sweep("recovery after a restart", leave_a_mess_and_restart, recovery);
}

int main(void) {
    make_directory();
    RUN_LOG(killed_while_it_appends);
    RUN_LOG(killed_in_unsynced_mode);
    RUN_LOG(killed_in_recovery);
    RUN_LOG(killed_in_recovery_after_a_restart);
    return FINISH();
}
