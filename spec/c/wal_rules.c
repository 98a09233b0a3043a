/* Who may open a log, what the heads decide, readers beside a writer, and a log of all shards. */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <time.h>

#include "../../csrc/core/wal_source.h"
#include "wal_files.h"

static char heads_path[192], kept_path[192];

static const tidemark_record record = {"x", 1};

static tidemark_wal *open_epoch(uint64_t epoch, int *code) {
    tidemark_wal_options options = log_options(300, 0);
    options.epoch = epoch;
    return open_log(&options, code);
}

/* Opens the log whose heads are gone, with the end of shards 1, 2 and 5. */
static tidemark_wal *open_without_heads(int64_t first, int64_t second, int64_t fifth, int *code) {
    const tidemark_mark ends[] = {{1, first}, {2, second}, {5, fifth}};
    tidemark_wal_options options = {.accept_loss = ends, .accept_loss_count = 3};
    return open_log(&options, code);
}

static int append(tidemark_wal *wal, uint32_t shard) {
    return tidemark_wal_append(wal, shard, &record, 1, NULL, NULL, &failure);
}

static int64_t head(const tidemark_wal *wal, uint32_t shard) {
    return tidemark_state_applied_seqno(tidemark_wal_heads(wal), shard);
}

/* A closed log, with `count` records in each shard. */
static void make_log(int count) {
    tidemark_wal *wal = open_log_or_stop(300, 0);
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        for (int n = 0; n < count; n++) CHECK_INT(append(wal, log_shards[i]), 0);
    }
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

static void drop_heads(void) {
    if (unlink(heads_path) < 0 || unlink(live_path) < 0) abort();
}

/* ---- epochs ---- */

static void epochs(void) {
    const uint64_t highest = TIDEMARK_EPOCH_EXPLICIT_MAX;
    int code;
    CHECK_INT(tidemark_wal_close(open_epoch(1, &code), &failure), 0);
    CHECK(open_epoch(1, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EFENCED);
    tidemark_wal *wal = open_epoch(7, &code);
    CHECK_INT(code, 0);
    CHECK_INT(tidemark_wal_epoch(wal), 7);
    abandon(wal);
    restart(FAULT_LOSE_ALL); /* it is durable before a record bears it */
    CHECK(open_epoch(6, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EFENCED);
    CHECK(open_epoch(7, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EFENCED);
    fault->clock_ms = 1000000; /* the clock decides, and the random bits */
    wal = open_epoch(0, &code);
    CHECK_INT(tidemark_wal_epoch(wal) >> 30, 1000);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    CHECK(open_epoch(highest + 1, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EINVAL);
    wal = open_epoch(highest, &code);
    CHECK_INT(code, 0);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    wal = open_epoch(0, &code); /* the largest one closes nothing */
    CHECK_INT(code, 0);
    CHECK(tidemark_wal_epoch(wal) > highest);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    drop_heads(); /* the segments know it as well */
    const tidemark_mark end = {1, 3};
    tidemark_wal_options options = {.epoch = highest, .accept_loss = &end, .accept_loss_count = 1};
    CHECK(open_log(&options, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EFENCED);
    options.epoch = 0;
    wal = open_log(&options, &code);
    CHECK_INT(code, 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* ---- heads ---- */

static void heads_are_missing(void) {
    int code;
    make_log(5);
    tidemark_wal *wal = open_epoch(0, &code);
    uint32_t id = tidemark_wal_log_id(wal);
    CHECK_INT(append(wal, 2), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    drop_heads();
    CHECK(open_epoch(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    CHECK(strstr(failure.message, " 1:5 2:6 5:5 ") != NULL);
    CHECK(!exists(heads_path));
    CHECK(open_without_heads(5, 5, 5, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    CHECK(strstr(failure.message, " 2:6 ") != NULL && strstr(failure.message, "1:5") == NULL);
    wal = open_without_heads(5, 6, 5, &code); /* the segments know the shards */
    CHECK_INT(code, 0);
    CHECK(tidemark_wal_log_id(wal) == id);
    CHECK_INT(head(wal, 1), 5);
    CHECK_INT(head(wal, 2), 6);
    CHECK_INT(head(wal, 5), 5);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

static void heads_are_corrupt(void) {
    unsigned char garbage[4096], found[4096];
    tidemark_wal_report report;
    int code;
    make_log(2);
    memset(garbage, 0x5A, sizeof garbage);
    put_bytes(heads_path, 0, garbage, sizeof garbage);
    CHECK(open_epoch(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    CHECK(strstr(failure.message, "heads is damaged") != NULL);
    get_bytes(heads_path, 0, found, sizeof found);
    CHECK(memcmp(found, garbage, sizeof found) == 0);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), TIDEMARK_ECORRUPT);
    uint32_t seen[SEQNO_MAX];
    CHECK_INT(read_log(1, 0, seen), TIDEMARK_ECORRUPT);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 1, &failure), TIDEMARK_ECORRUPT);
}

/* An older copy of the segments beside the newer heads, and the other way round. */
static void a_restored_log(void) {
    char segment[256];
    tidemark_wal_report report;
    int code;
    tidemark_wal *wal = open_log_or_stop(0, 0);
    CHECK_INT(append(wal, 1), 0);
    (void)snprintf(segment, sizeof segment, "%s", segment_path(1, 1));
    copy_file(segment, kept_path);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    copy_file(kept_path, segment);
    CHECK(open_epoch(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_ELOST);
    CHECK(strstr(failure.message, "seqno 1, but 2 had been durable") != NULL);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), TIDEMARK_ELOST);
    wal = open_without_heads(1, 0, 0, &code);
    CHECK_INT(head(wal, 1), 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    /* older heads beside newer segments */
    copy_file(heads_path, kept_path);
    wal = open_epoch(0, &code);
    for (int i = 0; i < 5; i++) CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    drop_heads();
    copy_file(kept_path, heads_path);
    wal = open_epoch(0, &code);
    CHECK_INT(code, 0);
    CHECK_INT(head(wal, 1), 6);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    (void)unlink(kept_path);
}

/* ---- one writer ---- */

static void open_second(void) {
    static const uint32_t more[] = {1, 2, 5, 9};
    tidemark_wal_options options = {.shards = more, .shard_count = 4};
    tidemark_wal *wal = NULL;
    CHECK_INT(tidemark_wal_open_io(log_io, directory, &options, &wal, &failure), TIDEMARK_ELOCKED);
}

static tidemark_wal *inherited;

static void use_inherited(void) {
    CHECK_INT(append(inherited, 1), TIDEMARK_EFORKED);
    CHECK_INT(tidemark_wal_sync(inherited, &failure), TIDEMARK_EFORKED);
    CHECK_INT(tidemark_wal_close(inherited, &failure), TIDEMARK_EFORKED);
    open_second(); /* the parent still has the lock */
}

static void one_writer(void) {
    int code;
    inherited = open_epoch(0, &code);
    CHECK_INT(append(inherited, 1), 0);
    open_second();
    CHECK_INT(in_child(open_second), 0);
    CHECK_INT(in_child(use_inherited), 0);
    open_second();
    CHECK_INT(append(inherited, 1), 0);
    CHECK_INT(append(inherited, 9), TIDEMARK_EUNKNOWN_SHARD);
    /* who was refused has changed nothing */
    CHECK_INT(head(inherited, 9), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_wal_close(inherited, &failure), 0);
    tidemark_wal *wal = open_epoch(0, &code);
    CHECK_INT(code, 0);
    CHECK_INT(head(wal, 1), 2);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

static void what_is_no_log(void) {
    tidemark_wal_options options = {0};
    static const uint32_t wrong[] = {65536};
    tidemark_wal_report report;
    tidemark_wal *wal;
    CHECK_INT(tidemark_wal_open_io(log_io, directory, &options, &wal, &failure), TIDEMARK_EINVAL);
    CHECK(!exists(heads_path));
    options = (tidemark_wal_options){.shards = wrong, .shard_count = 1};
    CHECK_INT(tidemark_wal_open_io(log_io, directory, &options, &wal, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_wal_open_io(log_io, heads_path, NULL, &wal, &failure), TIDEMARK_ENOT_FOUND);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), TIDEMARK_ENOT_FOUND);
    uint32_t seen[SEQNO_MAX];
    CHECK_INT(read_log(1, 0, seen), TIDEMARK_ENOT_FOUND);
    CHECK_INT(read_log(1, TIDEMARK_READ_ARCHIVE, seen), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, 1, &failure), TIDEMARK_ENOT_FOUND);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 65536, 1, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, -1, &failure), TIDEMARK_EINVAL);
}

/* ---- readers and pruning ---- */

static tidemark_wal_reader *open_reader(int64_t after, int *code) {
    tidemark_wal_reader *reader = NULL;
    *code = tidemark_wal_reader_open_io(log_io, directory, 1, after, 0, &reader, &failure);
    return reader;
}

/* The first seqno of the next batch, or a negative code. */
static int64_t next(tidemark_wal_reader *reader) {
    static unsigned char bytes[4096];
    tidemark_batch batch;
    int code = tidemark_wal_reader_wait(reader, 0, &batch, &failure);
    if (code == 0) code = tidemark_wal_reader_read(reader, bytes, &batch, &failure);
    return code < 0 ? code : batch.first_seqno;
}

static void pruned(void) {
    int code;
    make_log(20);
    int64_t firsts[32];
    size_t count = find_segments(1, firsts, 32);
    CHECK(count > 4);
    tidemark_wal_reader *slow = open_reader(0, &code), *fast = open_reader(firsts[2], &code);
    CHECK_INT(next(slow), 1);
    /* to the middle of a segment removes only those before it */
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, firsts[2], &failure), 2);
    CHECK_INT(find_segments(1, firsts, 32), count - 2);
    int64_t seqno = 1; /* the open segment can be read to its end */
    while ((code = (int)next(slow)) > 0) CHECK_INT(code, ++seqno);
    CHECK_INT(code, TIDEMARK_EPRUNED);
    CHECK(strstr(failure.message, "shard 1") != NULL);
    CHECK_INT(next(fast), firsts[0] + 1);
    CHECK(open_reader(0, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EPRUNED);
    CHECK(open_reader(firsts[0] - 2, &code) == NULL);
    CHECK_INT(code, TIDEMARK_EPRUNED);
    tidemark_wal_reader *edge = open_reader(firsts[0] - 1, &code);
    CHECK_INT(next(edge), firsts[0]);
    /* never the newest, whatever is asked for */
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, INT64_MAX, &failure), count - 3);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, INT64_MAX, &failure), 0);
    CHECK_INT(find_segments(1, firsts, 32), 1);
    tidemark_wal_reader_close(slow);
    tidemark_wal_reader_close(fast);
    tidemark_wal_reader_close(edge);
    tidemark_wal_report report;
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), 0);
    drop_heads(); /* what is left is enough to go on from */
    tidemark_wal *wal = open_without_heads(20, 20, 20, &code);
    CHECK_INT(code, 0);
    CHECK_INT(head(wal, 1), 20);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* A segment that holds no durable record is none that one can go on from. */
static void the_segment_of_the_head_stays(void) {
    int64_t firsts[4];
    tidemark_wal *wal = open_log_or_stop(1, 1);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(append(wal, 1), 0); /* syncs the first one, as it closes its segment */
    CHECK_INT(head(wal, 1), 1);
    CHECK_INT(tidemark_wal_prune_io(log_io, directory, 1, INT64_MAX, &failure), 0);
    CHECK_INT(find_segments(1, firsts, 4), 2);
    abandon(wal);
    restart(FAULT_LOSE_ALL);
    wal = open_log_or_stop(1, 0);
    CHECK_INT(head(wal, 1), 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* As the header says. */
static void descriptors_of_a_reader(void) {
    int code;
    make_log(1);
    int before = fault->descriptors;
    tidemark_wal_reader *reader = open_reader(0, &code);
    CHECK_INT(next(reader), 1);
    CHECK_INT(fault->descriptors - before, 5);
    tidemark_wal_reader_close(reader);
    CHECK_INT(fault->descriptors, before);
    /* and the readers of one source */
    tidemark_wal_source *source;
    tidemark_wal_reader *readers[3];
    CHECK_INT(tidemark_wal_source_open_io(log_io, directory, false, &source, &failure), 0);
    CHECK_INT(fault->descriptors - before, 4);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(tidemark_wal_source_reader(source, 1, 0, &readers[i], &failure), 0);
        CHECK_INT(next(readers[i]), 1);
        CHECK_INT(fault->descriptors - before, 4 + i + 1);
    }
    CHECK_INT(tidemark_wal_source_reader(source, 9, 0, &reader, &failure), TIDEMARK_EUNKNOWN_SHARD);
    CHECK_INT(tidemark_wal_source_reader(source, TIDEMARK_SHARD_MAX + 1, 0, &reader, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_wal_source_reader(source, 1, -1, &reader, &failure), TIDEMARK_EINVAL);
    CHECK_INT(fault->descriptors - before, 4 + 3);
    CHECK_INT(fault->mappings, 1);
    tidemark_wal_source_close(source);
    CHECK_INT(fault->descriptors - before, 4 + 3); /* its readers need it */
    for (int i = 0; i < 3; i++) tidemark_wal_reader_close(readers[i]);
    CHECK_INT(fault->descriptors, before);
    CHECK_INT(fault->mappings, 0);
}

static void readers_wait_for_the_sync(void) {
    int code;
    tidemark_wal *wal = open_log_or_stop(0, 1);
    tidemark_wal_reader *reader = open_reader(0, &code);
    for (int i = 1; i <= 2; i++) {
        CHECK_INT(append(wal, 1), 0);
        CHECK_INT(next(reader), TIDEMARK_ETIMEOUT);
        CHECK_INT(tidemark_wal_reader_head(reader), i - 1);
        CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
        CHECK_INT(next(reader), i);
    }
    tidemark_wal_reader_close(reader);
    abandon(wal);
}

/* A segment is removed between a reader's listing and its opening. */
static int removing_openat(int at, const char *name, int flags, mode_t mode) {
    static bool done;
    if (!done && strcmp(name, "00001-00000000000000000001.wal") == 0) {
        done = true;
        (void)unlinkat(at, name, 0);
    }
    return fault_io.openat(at, name, flags, mode);
}

static void removed_while_it_is_looked_for(void) {
    struct tidemark_io removing = fault_io;
    tidemark_wal_reader *reader = NULL;
    removing.openat = removing_openat;
    make_log(20);
    CHECK_INT(tidemark_wal_reader_open_io(&removing, directory, 1, 0, 0, &reader, &failure), TIDEMARK_EPRUNED);
}

/* Opening this segment lets another process remove it first, and it is not the first one that verify has read. */
static char pruned_name[TIDEMARK_SEGMENT_NAME];

static int pruning_openat(int at, const char *name, int flags, mode_t mode) {
    if (strcmp(name, pruned_name) == 0) (void)unlinkat(at, name, 0);
    return fault_openat(at, name, flags, mode);
}

static void pruned_while_it_is_verified(void) {
    struct tidemark_io pruning = fault_io;
    int64_t firsts[64];
    tidemark_wal_report report;
    pruning.openat = pruning_openat;
    make_log(20);
    size_t count = find_segments(1, firsts, 64);
    CHECK(count > 3);
    tidemark_segment_name((struct tidemark_segment){1, firsts[1]}, pruned_name);
    CHECK_INT(tidemark_wal_verify_io(&pruning, directory, &report, &failure), 0);
    CHECK_INT(report.segments, 3 * count - 1);
}

/* A reader that begins with the record *seqno, or with the first one behind it that is not pruned: then *seqno is that
 * one's. */
static tidemark_wal_reader *open_from(int64_t *seqno) {
    tidemark_wal_reader *reader;
    int code;
    while ((reader = open_reader(*seqno - 1, &code)) == NULL && code == TIDEMARK_EPRUNED) (*seqno)++;
    if (reader == NULL) {
        printf("    %d at %lld: %s\n", code, (long long)*seqno, failure.message);
        check_failures++;
    }
    return reader;
}

/* In another process: reads all that becomes durable while the parent rotates and prunes behind it, from the beginning
 * or from where it comes in time. */
static void follow(void) {
    int code;
    int64_t seqno = 1;
    tidemark_wal_reader *reader = open_from(&seqno);
    static unsigned char bytes[4096];
    while (reader != NULL && seqno <= 300) {
        tidemark_batch batch;
        code = tidemark_wal_reader_wait(reader, 10, &batch, &failure);
        if (code == 0) code = tidemark_wal_reader_read(reader, bytes, &batch, &failure);
        if (code == TIDEMARK_EPRUNED) { /* it fell behind: begins anew, further on */
            tidemark_wal_reader_close(reader);
            reader = open_from(&seqno);
            continue;
        }
        if (code < 0 || batch.first_seqno != seqno) {
            printf("    %d at %lld: %s\n", code, (long long)seqno, failure.message);
            check_failures++;
            break;
        }
        CHECK(tidemark_wal_reader_head(reader) >= tidemark_batch_last_seqno(&batch));
        seqno = tidemark_batch_last_seqno(&batch) + 1;
    }
    tidemark_wal_reader_close(reader);
}

static void a_reader_beside_the_writer(void) {
    static const struct timespec pause = {0, 300000};
    int code, status;
    tidemark_wal *wal = open_epoch(0, &code);
    CHECK_INT(append(wal, 1), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        follow();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    for (int i = 1; i < 300; i++) {
        CHECK_INT(append(wal, 1), 0);
        if (i % 40 == 0) CHECK(tidemark_wal_prune_io(log_io, directory, 1, i - 30, &failure) >= 0);
        if (i % 3 == 0) (void)nanosleep(&pause, NULL);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* The heads are removed, and made again by a writer that accepts it, while a reader waits. */
static void a_reader_and_new_heads(void) {
    static const struct timespec pause = {0, 60000000}; /* readers look at this every 50 ms */
    int code;
    make_log(2);
    tidemark_wal_reader *reader = open_reader(0, &code);
    CHECK_INT(next(reader), 1);
    CHECK_INT(next(reader), 2);
    if (unlink(live_path) < 0) abort(); /* a new live file alone is no other history */
    tidemark_wal *wal = open_epoch(0, &code);
    CHECK_INT(append(wal, 1), 0);
    (void)nanosleep(&pause, NULL);
    CHECK_INT(next(reader), 3);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    drop_heads();
    (void)nanosleep(&pause, NULL);
    CHECK_INT(next(reader), TIDEMARK_ENOT_FOUND);
    wal = open_without_heads(3, 2, 2, &code);
    (void)nanosleep(&pause, NULL);
    CHECK_INT(next(reader), TIDEMARK_EREPLACED);
    tidemark_wal_reader_close(reader);
    reader = open_reader(3, &code);
    CHECK_INT(append(wal, 1), 0);
    CHECK_INT(next(reader), 4);
    tidemark_wal_reader_close(reader);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* ---- all shards ---- */

static void all_shards(void) {
    static uint32_t shards[TIDEMARK_SHARD_MAX + 1];
    struct rlimit old, few;
    tidemark_wal_report report;
    tidemark_wal *wal = NULL;
    log_io = &tidemark_io_system;
    for (uint32_t i = 0; i <= TIDEMARK_SHARD_MAX; i++) shards[i] = i;
    tidemark_wal_options options = {.shards = shards, .shard_count = TIDEMARK_SHARD_MAX + 1, .unsynced = 1};
    (void)getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = 256;
    (void)setrlimit(RLIMIT_NOFILE, &few);
    int failed = 0;
    for (int round = 0; round < 2; round++) {
        CHECK_INT(tidemark_wal_open_io(log_io, directory, &options, &wal, &failure), 0);
        for (uint32_t i = 0; i <= TIDEMARK_SHARD_MAX; i++) {
            failed += append(wal, i) != 0;
            if (round == 0) failed += head(wal, i) != 0 && i + TIDEMARK_WAL_FILES > TIDEMARK_SHARD_MAX;
        }
        CHECK_INT(tidemark_wal_close(wal, &failure), 0);
        options.shards = NULL;
        options.shard_count = 0;
    }
    CHECK_INT(failed, 0);
    CHECK_INT(tidemark_wal_verify_io(log_io, directory, &report, &failure), 0);
    CHECK_INT(report.shards, TIDEMARK_SHARD_MAX + 1);
    CHECK_INT(report.records, 2 * (TIDEMARK_SHARD_MAX + 1));
    (void)setrlimit(RLIMIT_NOFILE, &old);
    log_io = &fault_io;
}

int main(void) {
    make_directory();
    (void)snprintf(heads_path, sizeof heads_path, "%s/heads", directory);
    (void)snprintf(live_path, sizeof live_path, "%s/heads.live", directory);
    (void)snprintf(kept_path, sizeof kept_path, "%s/kept", directory);
    RUN_LOG(epochs);
    RUN_LOG(heads_are_missing);
    RUN_LOG(heads_are_corrupt);
    RUN_LOG(a_restored_log);
    RUN_LOG(one_writer);
    RUN_LOG(what_is_no_log);
    RUN_LOG(pruned);
    RUN_LOG(the_segment_of_the_head_stays);
    RUN_LOG(descriptors_of_a_reader);
    RUN_LOG(readers_wait_for_the_sync);
    RUN_LOG(removed_while_it_is_looked_for);
    RUN_LOG(pruned_while_it_is_verified);
    RUN_LOG(a_reader_beside_the_writer);
    RUN_LOG(a_reader_and_new_heads);
    RUN_LOG(all_shards);
    return FINISH();
}
