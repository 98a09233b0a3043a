/*
 * Opening a log for writing after its writer was killed, beside the bare reading and CRC32C of the segment that must be
 * read. The size of a case is that of the log, in MiB; answers are milliseconds. A child fills the last segment, syncs
 * it and is ended by SIGKILL; the opening that follows is timed. `unsynced`: the child is killed before it has synced
 * what it appended last, so that the opening must write it again.
 */
#define _DEFAULT_SOURCE 1
#include <signal.h>
#include <sys/wait.h>

#include "../../csrc/core/crc32c.h"
#include "disk.h"
#include "tidemark.h"

#define RECORD 128      /* bytes */
#define BATCH  1000     /* records */
#define LAST   50331648 /* bytes of the last segment at the most: a full one would not be the last */
#define BLOCK  262144

static tidemark_error error;

static void must(int result) {
    if (result < 0) bench_fail(error.message);
}

static uint64_t to_batches(uint64_t bytes) {
    return bytes / (TIDEMARK_BATCH_HEADER + BATCH * (4 + RECORD));
}

/* Appends that many batches, syncs unless `unsynced`, and is gone. */
static void write_and_die(uint64_t batches, bool unsynced) {
    static char bytes[RECORD * BATCH];
    static tidemark_record records[BATCH];
    const uint32_t shard = 0;
    tidemark_wal_options options = {.shards = &shard, .shard_count = 1, .unsynced = 1};
    tidemark_wal *wal;
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7);
    for (size_t i = 0; i < BATCH; i++) records[i] = (tidemark_record){bytes + i * RECORD, RECORD};
    must(tidemark_wal_open(disk_path("log"), &options, &wal, &error));
    for (; batches > 0; batches--) must(tidemark_wal_append(wal, shard, records, BATCH, NULL, NULL, &error));
    if (!unsynced) must(tidemark_wal_sync(wal, &error));
    (void)kill(getpid(), SIGKILL);
}

static void run_child(uint64_t batches, bool unsynced) {
    int status;
    pid_t child = fork();
    if (child < 0) disk_fail("fork");
    if (child == 0) {
        write_and_die(batches, unsynced);
        _exit(1);
    }
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) bench_fail("the writer has failed");
}

/* Of the last segment, in a log of `size` MiB. */
static uint64_t last_batches(unsigned size) {
    uint64_t all = (uint64_t)size << 20;
    return to_batches(all < LAST ? all : LAST);
}

static int64_t written; /* records, over all rounds */

/* Leaves a log of about `size` MiB as a killed writer leaves it: its beginning is made once, its last segment anew each
 * time, and as much is removed in front. */
static void kill_writer(unsigned size, bool unsynced) {
    disk_need_directory(); /* here, not in a child */
    uint64_t all = to_batches((uint64_t)size << 20), last = last_batches(size);
    if (written == 0 && all > last) {
        run_child(all - last, false);
        written = (int64_t)(all - last) * BATCH;
    }
    run_child(last, unsynced);
    written += (int64_t)last * BATCH;
}

/* Opens the log and closes it again, checks what it has, and removes what is too much. */
static double reopen(unsigned size, bool unsynced) {
    tidemark_wal *wal;
    kill_writer(size, unsynced);
    double start = bench_now();
    must(tidemark_wal_open(disk_path("log"), NULL, &wal, &error));
    double ms = (bench_now() - start) * 1e3;
    if (tidemark_state_applied_seqno(tidemark_wal_heads(wal), 0) != written) bench_fail("records are missing");
    must(tidemark_wal_close(wal, &error));
    int64_t all = (int64_t)to_batches((uint64_t)size << 20) * BATCH;
    if (written > all) must(tidemark_wal_prune(disk_path("log"), 0, written - all, &error));
    return ms;
}

static double reopen_synced(unsigned size) {
    return reopen(size, false);
}

static double reopen_unsynced(unsigned size) {
    return reopen(size, true);
}

/* The last segment. */
static double read_and_check(unsigned size) {
    static unsigned char block[BLOCK];
    glob_t found;
    uint32_t crc = 0;
    ssize_t length;
    off_t at = 0;
    if (written == 0) (void)reopen(size, false);
    if (glob(disk_path("log/*.wal"), 0, NULL, &found) != 0) bench_fail("no segments");
    double start = bench_now();
    int fd = open(found.gl_pathv[found.gl_pathc - 1], O_RDONLY | O_CLOEXEC);
    for (; (length = pread(fd, block, BLOCK, at)) > 0; at += length) crc = tidemark_crc32c(crc, block, (size_t)length);
    (void)close(fd);
    double ms = (bench_now() - start) * 1e3;
    globfree(&found);
    bench_sink = crc;
    if ((uint64_t)at < last_batches(size) * BATCH * RECORD) bench_fail("the last segment was not all read");
    return ms;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {
        {"reopen", NULL, NULL, reopen_synced},
        {"unsynced", NULL, NULL, reopen_unsynced},
        {"pread_crc", NULL, NULL, read_and_check},
        {NULL, NULL, NULL, NULL},
    };
    return bench_serve(count, arguments, cases);
}
