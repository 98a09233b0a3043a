/* Out of memory at every allocation of the log: an error, nothing leaked, nothing changed, and the same call succeeds
 * when there is memory again. Linked with --wrap, so that the core's calls come here. */
#define _GNU_SOURCE
#include "../../csrc/core/wal_source.h"
#include "wal_files.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void __wrap_free(void *block);

static long spare = -1; /* allocations until they fail; below 0: they do not */
static long blocks;     /* not yet freed */

static long allocations; /* that have failed in turn */

static bool fails(void) {
    if (spare == 0) return true;
    if (spare > 0) spare--;
    return false;
}

void *__wrap_malloc(size_t size) {
    void *block = fails() ? NULL : __real_malloc(size);
    blocks += block != NULL;
    return block;
}

void *__wrap_calloc(size_t count, size_t size) {
    void *block = fails() ? NULL : __real_calloc(count, size);
    blocks += block != NULL;
    return block;
}

void __wrap_free(void *block) {
    blocks -= block != NULL;
    __real_free(block);
}

/* Calls `call` with 0, 1, 2, ... allocations to spare until it succeeds. */
static void exhaust(int (*call)(void)) {
    int code = TIDEMARK_ENOMEM;
    long failed = -1;
    for (; code == TIDEMARK_ENOMEM && failed < 1000; failed++) {
        long before = blocks;
        int descriptors = fault->descriptors, mappings = fault->mappings;
        spare = failed + 1;
        code = call();
        spare = -1;
        if (code != TIDEMARK_ENOMEM) break;
        CHECK_INT(blocks, before);
        CHECK(fault->descriptors <= descriptors); /* an append that needs another segment has closed the last one */
        CHECK_INT(fault->mappings, mappings);
    }
    CHECK_INT(code, 0);
    if (code < 0) printf("    %s\n", failure.message);
    allocations += failed + 1;
}

static tidemark_wal *wal;
static tidemark_wal_reader *reader;
static const tidemark_record record = {"0123456789", 10};

static int open_writer(void) {
    tidemark_wal_options options = log_options(300, 0);
    return tidemark_wal_open_io(log_io, directory, &options, &wal, &failure);
}

static int append(void) {
    return tidemark_wal_append(wal, 1, &record, 1, NULL, NULL, &failure);
}

static int open_reader(void) {
    return tidemark_wal_reader_open_io(log_io, directory, 1, 0, 0, &reader, &failure);
}

static tidemark_wal_source *source;

static int open_source(void) {
    return tidemark_wal_source_open_io(log_io, directory, false, &source, &failure);
}

static int subscribe(void) {
    return tidemark_wal_source_reader(source, 1, 0, &reader, &failure);
}

static int open_archive(void) {
    return tidemark_wal_reader_open_io(log_io, directory, 1, 0, TIDEMARK_READ_ARCHIVE, &reader, &failure);
}

static int next(void) {
    unsigned char bytes[400];
    tidemark_batch batch;
    int code = tidemark_wal_reader_wait(reader, 0, &batch, &failure);
    return code < 0 ? code : tidemark_wal_reader_read(reader, bytes, &batch, &failure);
}

static int verify(void) {
    tidemark_wal_report report;
    return tidemark_wal_verify_io(log_io, directory, &report, &failure);
}

static int prune(void) {
    int removed = tidemark_wal_prune_io(log_io, directory, 1, 4, &failure);
    return removed > 0 ? 0 : removed;
}

static void out_of_memory(void) {
    long before = blocks;
    exhaust(open_writer);
    CHECK(allocations > 10);
    for (int i = 0; i < 12; i++) exhaust(append); /* rotates as well */
    CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), 12);
    tidemark_wal_options options = log_options(300, 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    CHECK_INT(tidemark_wal_open_io(log_io, directory, &options, &wal, &failure), 0);
    CHECK_INT(append(), 0);
    off_t end = wal->shards[0].offset;
    abandon(wal);
    put_bytes(segment_path(1, 13), end, "TMWB torn", 9);
    exhaust(open_writer); /* rewrites one, cuts another */
    CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), 13);
    CHECK_INT(file_size(segment_path(1, 13)), end);
    exhaust(append);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    exhaust(verify);
    exhaust(open_archive);
    tidemark_wal_reader_close(reader);
    exhaust(open_source);
    exhaust(subscribe);
    tidemark_wal_source_close(source);
    tidemark_wal_reader_close(reader);
    exhaust(open_reader);
    for (int i = 0; i < 14; i++) {
        int code = TIDEMARK_ENOMEM;
        for (spare = 0; code == TIDEMARK_ENOMEM; spare++) {
            long room = spare;
            code = next();
            spare = room;
        }
        spare = -1;
        CHECK_INT(code, 0);
    }
    CHECK_INT(next(), TIDEMARK_ETIMEOUT);
    tidemark_wal_reader_close(reader);
    exhaust(prune);
    CHECK(allocations > 80);
    CHECK_INT(blocks, before);
    CHECK_INT(fault->descriptors, 0);
    CHECK_INT(fault->mappings, 0);
}

/* A checkpoint of the heads that finds no memory takes nothing back. */
static void out_of_memory_at_close(void) {
    for (long room = 0;; room++) {
        begin_log_test();
        CHECK_INT(open_writer(), 0);
        CHECK_INT(append(), 0);
        long before = blocks;
        spare = room;
        int code = tidemark_wal_close(wal, &failure);
        spare = -1;
        CHECK(code == 0 || code == TIDEMARK_ENOMEM);
        CHECK(blocks < before);
        CHECK_INT(fault->descriptors, 0);
        restart(FAULT_LOSE_ALL);
        CHECK_INT(open_writer(), 0);
        CHECK_INT(tidemark_state_applied_seqno(tidemark_wal_heads(wal), 1), 1);
        abandon(wal);
        if (code == 0) break;
    }
}

int main(void) {
    make_directory();
    RUN_LOG(out_of_memory);
    RUN_LOG(out_of_memory_at_close);
    return FINISH();
}
