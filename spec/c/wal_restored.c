/* The files of a log are restored in place under a reader, in the moments that Lua's reader:next does not show. */
#define _XOPEN_SOURCE 700 /* mkdtemp */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tidemark.h"

static char directory[] = "/tmp/tidemark-spec.XXXXXX";
static tidemark_error failure;
static tidemark_wal_reader *reader;

static void shell(const char *commands) {
    char command[1024];
    (void)snprintf(command, sizeof command, "cd '%s' && %s", directory, commands);
    CHECK_INT(system(command), 0);
}

static tidemark_wal *open_log(int unsynced) {
    static const uint32_t shards[] = {0};
    char path[64];
    tidemark_wal *wal = NULL;
    (void)snprintf(path, sizeof path, "%s/log", directory);
    tidemark_wal_options options = {.shards = shards, .shard_count = 1, .unsynced = unsynced};
    CHECK_INT(tidemark_wal_open(path, &options, &wal, &failure), 0);
    return wal;
}

static void append(tidemark_wal *wal, const char *text) {
    tidemark_record record = {text, strlen(text)};
    CHECK_INT(tidemark_wal_append(wal, 0, &record, 1, NULL, NULL, &failure), 0);
}

static void write_log(const char *first, const char *second) {
    tidemark_wal *wal = open_log(0);
    append(wal, first);
    if (second != NULL) append(wal, second);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* A log of one record is copied, gets a second one in a segment of its own, and a reader has read the first. */
static void begin(void) {
    char path[64];
    tidemark_batch batch;
    unsigned char bytes[4096];
    (void)snprintf(path, sizeof path, "%s/log", directory);
    shell("rm -rf log copy");
    write_log("one", NULL);
    shell("cp -r log copy && rm copy/heads.live");
    write_log("lost", NULL);
    CHECK_INT(tidemark_wal_reader_open(path, 0, 0, 0, &reader, &failure), 0);
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), 0);
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &batch, &failure), 0);
}

static void restore(void) {
    shell("rm log/*2.wal log/heads.live && cp -r copy/. log"); /* the first segment is the same file */
}

/* The next batch is the record `text`, with this seqno. */
static void check_next(int64_t seqno, const char *text) {
    tidemark_batch batch;
    unsigned char bytes[4096];
    CHECK_INT(tidemark_wal_reader_wait(reader, 10, &batch, &failure), 0);
    CHECK(batch.size <= sizeof bytes);
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &batch, &failure), 0);
    CHECK_INT(batch.first_seqno, seqno);
    tidemark_record record = tidemark_batch_record(bytes, &batch, 0);
    CHECK_INT(record.length, strlen(text));
    CHECK(record.length == strlen(text) && memcmp(record.bytes, text, record.length) == 0);
}

/* The head that the reader knows is of the log before; the new writer's is lower. */
static void not_yet_durable(void) {
    tidemark_batch batch;
    begin();
    restore();
    tidemark_wal *wal = open_log(1);
    append(wal, "two");
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
    check_next(2, "two");
    tidemark_wal_reader_close(reader);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* What looks like a lost segment is one that the new writer has not made yet. */
static void not_yet_there(void) {
    tidemark_batch batch;
    begin();
    restore();
    tidemark_wal *wal = open_log(0);
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), TIDEMARK_ETIMEOUT);
    append(wal, "two");
    check_next(2, "two");
    tidemark_wal_reader_close(reader);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* A batch is found, and its segment is just being copied over when it is read. */
static void half_copied(void) {
    tidemark_batch batch;
    unsigned char bytes[4096];
    begin();
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &batch, &failure), 0);
    shell("for f in log/*2.wal; do : >$f; done");
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &batch, &failure), TIDEMARK_ECORRUPT);
    restore();
    write_log("a second record of another size", "three");
    check_next(2, "a second record of another size");
    check_next(3, "three");
    tidemark_wal_reader_close(reader);
}

int main(void) {
    if (mkdtemp(directory) == NULL) return 1;
    RUN(not_yet_durable);
    RUN(not_yet_there);
    RUN(half_copied);
    shell("rm -r log copy && rmdir \"$PWD\"");
    return FINISH();
}
