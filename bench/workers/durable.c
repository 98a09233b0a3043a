/*
 * Making marks and batches durable: a checkpoint of a state file and an append to a log, beside the raw pwrite +
 * fdatasync of as many bytes, which is the limit, and beside the file that is written anew and renamed. The answers are
 * microseconds per save, at sizes that are shards, or per append, at sizes that are records of 128 bytes in a batch.
 * Each answer is given only after what was written has been read back.
 */
#define _DEFAULT_SOURCE 1
#include "../../csrc/core/checkpoint_file.h"
#include "disk.h"
#include "tidemark.h"

#define FIRST_SEQNO (INT64_C(1) << 40) /* a length as marks have after years */
#define RECORD      128                /* bytes */
#define RAW_LOG     16777216           /* bytes of the file that raw appends go round in */

static tidemark_error error;

static void must(int result) {
    if (result < 0) bench_fail(error.message);
}

static void *allocate(size_t size) {
    void *bytes = calloc(1, size);
    if (bytes == NULL) bench_fail("no memory");
    return bytes;
}

/* A file of that many bytes, all written and on the disk: what is written later only overwrites. In small pieces, for
 * the kernel caches what was written at once as one piece, and then writing a part of it costs more. */
static int make_file(const char *name, size_t size) {
    static const char zeros[4096];
    int fd = open(disk_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) disk_fail("open");
    for (size_t at = 0; at < size; at += sizeof zeros)
        disk_write(fd, zeros, size - at < sizeof zeros ? size - at : sizeof zeros, (off_t)at);
    if (fsync(fd) < 0) disk_fail("fsync");
    return fd;
}

/* ---- checkpoints ---- */

static tidemark_state *state;
static int64_t mark = FIRST_SEQNO; /* of all shards */

static void need_state(unsigned shards) {
    if (state != NULL) return;
    uint32_t *ids = allocate(shards * sizeof *ids);
    for (uint32_t i = 0; i < shards; i++) ids[i] = i;
    must(tidemark_state_open(disk_path("marks"), ids, shards, 0, &state, &error));
    for (uint32_t i = 0; i < shards; i++) (void)tidemark_state_advance(state, i, mark);
    free(ids);
    for (int slot = 0; slot < 2; slot++) must(tidemark_state_checkpoint(state, NULL, 0, &error)); /* takes its space */
}

/* Copies a file without its zeros: what lies dirty in the page cache would disturb what is timed next. */
static void copy_file(const char *from, const char *to) {
    static const char zeros[65536];
    static char block[65536];
    ssize_t length;
    off_t at = 0;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (in < 0 || out < 0) disk_fail("open to copy");
    for (; (length = pread(in, block, sizeof block, at)) > 0; at += length) {
        if (memcmp(block, zeros, (size_t)length) != 0) disk_write(out, block, (size_t)length, at);
    }
    if (ftruncate(out, at) < 0) disk_fail("ftruncate");
    (void)close(in);
    (void)close(out);
}

/* That the checkpoint, read by itself without the live marks, has those of `shards`. */
static void check_checkpoint(unsigned shards) {
    tidemark_state *copy;
    copy_file(disk_path("marks"), disk_path("copy"));
    must(tidemark_state_open(disk_path("copy"), NULL, 0, TIDEMARK_OPEN_READONLY, &copy, &error));
    for (uint32_t i = 0; i < shards; i++) {
        if (tidemark_state_applied_seqno(copy, i) != mark) bench_fail("the checkpoint does not have the marks");
    }
    tidemark_state_release(copy);
    (void)unlink(disk_path("copy"));
}

static uint64_t saved_generation(void) {
    tidemark_state_info info;
    must(tidemark_state_inspect(disk_path("marks"), &info, &error));
    return info.saved_generation;
}

static void save_once(void) {
    must(tidemark_state_checkpoint(state, NULL, 0, &error));
}

/* The advances between two saves are not timed. */
static double save(unsigned shards) {
    need_state(shards);
    uint64_t before = saved_generation();
    mark++;
    for (uint32_t shard = 0; shard < shards; shard++) (void)tidemark_state_advance(state, shard, mark);
    double us = disk_time(save_once);
    if (saved_generation() != before + 1) bench_fail("nothing was saved");
    if (disk_is_check_due()) check_checkpoint(shards);
    return us;
}

/* What a checkpoint of so many shards writes: its text, in whole blocks. */
static char *text;
static size_t text_size;

static void need_text(unsigned shards) {
    if (text != NULL) return;
    need_state(shards);
    size_t room = TIDEMARK_CHECKPOINT_SIZE(shards) + TIDEMARK_BLOCK + 64;
    text = allocate(room);
    text_size = tidemark_slot_block_size((size_t)tidemark_state_to_checkpoint_bytes(state, text, room));
}

/* That the file has the text as it was written last. */
static void check_text(int fd) {
    char *there = allocate(text_size);
    if (pread(fd, there, text_size, 0) != (ssize_t)text_size || memcmp(there, text, text_size) != 0)
        bench_fail("the file does not have what was written");
    free(there);
}

static int raw_fd = -1;

static void raw_save_once(void) {
    text[0]++;
    disk_write(raw_fd, text, text_size, 0);
    if (fdatasync(raw_fd) < 0) disk_fail("fdatasync");
}

static double raw_save(unsigned shards) {
    need_text(shards);
    if (raw_fd < 0) raw_fd = make_file("raw", text_size);
    double us = disk_time(raw_save_once);
    check_text(raw_fd);
    return us;
}

static int directory_fd = -1;

/* A new file, synced, renamed over the old one, and the directory synced. */
static void renamed_save_once(void) {
    text[0]++;
    int fd = openat(directory_fd, "renamed.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) disk_fail("open");
    disk_write(fd, text, text_size, 0);
    if (fsync(fd) < 0 || close(fd) < 0) disk_fail("fsync");
    if (renameat(directory_fd, "renamed.new", directory_fd, "renamed") < 0) disk_fail("rename");
    if (fsync(directory_fd) < 0) disk_fail("fsync");
}

static double renamed_save(unsigned shards) {
    need_text(shards);
    if (directory_fd < 0) directory_fd = open(disk_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory_fd < 0) disk_fail("open");
    double us = disk_time(renamed_save_once);
    int fd = openat(directory_fd, "renamed", O_RDONLY | O_CLOEXEC);
    check_text(fd);
    (void)close(fd);
    return us;
}

/* ---- appends ---- */

static tidemark_wal *wal;
static tidemark_record *records;
static unsigned record_count;
static uint64_t appended; /* records */
static char bytes[RECORD];

static void append_once(void) {
    bytes[0]++;
    must(tidemark_wal_append(wal, 0, records, record_count, NULL, NULL, &error));
    appended += record_count;
}

static double append(unsigned count) {
    const uint32_t shard = 0;
    tidemark_wal_report report;
    if (wal == NULL) {
        tidemark_wal_options options = {.shards = &shard, .shard_count = 1};
        must(tidemark_wal_open(disk_path("log"), &options, &wal, &error));
        records = allocate(count * sizeof *records);
        for (unsigned i = 0; i < count; i++) records[i] = (tidemark_record){bytes, RECORD};
        record_count = count;
    }
    double us = disk_time(append_once);
    if (!disk_is_check_due()) return us;
    must(tidemark_wal_verify(disk_path("log"), &report, &error));
    if (report.records != appended) bench_fail("not every append was made");
    return us;
}

static char *raw_batch;
static size_t raw_batch_size;
static off_t raw_offset;

static void raw_append_once(void) {
    raw_batch[0]++;
    disk_write(raw_fd, raw_batch, raw_batch_size, raw_offset);
    if (fdatasync(raw_fd) < 0) disk_fail("fdatasync");
    raw_offset += (off_t)raw_batch_size;
}

/* As many bytes as a batch, one behind the other, in a file that is there. */
static double raw_append(unsigned count) {
    if (raw_fd < 0) {
        raw_fd = make_file("raw", RAW_LOG);
        raw_batch_size = TIDEMARK_BATCH_HEADER + count * (4 + RECORD);
        raw_batch = allocate(raw_batch_size);
    }
    if (raw_offset + (off_t)raw_batch_size > RAW_LOG) raw_offset = 0;
    double us = disk_time(raw_append_once);
    char *there = allocate(raw_batch_size);
    if (pread(raw_fd, there, raw_batch_size, raw_offset - (off_t)raw_batch_size) != (ssize_t)raw_batch_size ||
        memcmp(there, raw_batch, raw_batch_size) != 0)
        bench_fail("the file does not have what was written");
    free(there);
    return us;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {
        {"save", NULL, NULL, save},
        {"raw_save", NULL, NULL, raw_save},
        {"renamed_save", NULL, NULL, renamed_save},
        {"append", NULL, NULL, append},
        {"raw_append", NULL, NULL, raw_append},
        {NULL, NULL, NULL, NULL},
    };
    return bench_serve(count, arguments, cases);
}
