/* What the programs about logs share: a log in `directory` through the table of fault_io.h, records that say which
 * attempt to append wrote them, and a model of what must be in the log. */
#ifndef TIDEMARK_WAL_FILES_H
#define TIDEMARK_WAL_FILES_H

#include "../../csrc/core/alloc.h"
#include "../../csrc/core/batch.h"
#include "../../csrc/core/crc32c.h"
#include "../../csrc/core/segment.h"
#include "../../csrc/core/wal_writer.h"
#include "state_files.h"

#define SHARD_MAX 8   /* shards 0..7 in the model */
#define SEQNO_MAX 400 /* per shard */

/* Every append is an attempt with a number of its own, and its records carry that. */
enum fate {
    FATE_OPEN,    /* neither acknowledged nor refused: its writer was killed, or a sync failed */
    FATE_ACKED,   /* must be there */
    FATE_REFUSED, /* must never be there */
};

struct model {
    uint32_t attempts;
    unsigned char fate[2048];
    int64_t acked[SHARD_MAX];               /* last acknowledged seqno */
    int64_t last[SHARD_MAX];                /* that check_log has found, or its error */
    uint32_t written[SHARD_MAX][SEQNO_MAX]; /* attempt that was acknowledged for a seqno; 0: none */
    uint32_t visible[SHARD_MAX][SEQNO_MAX]; /* attempt that a reader has seen; 0: none */
    uint64_t epoch;                         /* highest that an opening has returned */
    bool deferred[SHARD_MAX][SEQNO_MAX];    /* appended, acknowledged at the next sync */
};

static struct model *model; /* children share it */

static void begin_log_test(void) {
    begin_test();
    if (model == NULL)
        model = mmap(NULL, sizeof *model, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (model == MAP_FAILED) abort();
    memset(model, 0, sizeof *model);
}

#define RUN_LOG(test) \
    do { \
        begin_log_test(); \
        RUN(test); \
    } while (0)

static const uint32_t log_shards[] = {1, 2, 5};
#define LOG_SHARDS 3

static const struct tidemark_io *log_io = &fault_io;

static tidemark_wal_options log_options(uint64_t segment_bytes, int unsynced) {
    return (tidemark_wal_options){
        .shards = log_shards, .shard_count = LOG_SHARDS, .segment_bytes = segment_bytes, .unsynced = unsynced};
}

/* Opens the log: NULL where it fails, with `failure`. */
static tidemark_wal *open_log(const tidemark_wal_options *options, int *code) {
    tidemark_wal *wal = NULL;
    *code = tidemark_wal_open_io(log_io, directory, options, &wal, &failure);
    if (*code < 0) return NULL;
    if (model != NULL) {
        CHECK(tidemark_wal_epoch(wal) > model->epoch);
        model->epoch = tidemark_wal_epoch(wal);
    }
    return wal;
}

static tidemark_wal *open_log_or_stop(uint64_t segment_bytes, int unsynced) {
    int code;
    tidemark_wal_options options = log_options(segment_bytes, unsynced);
    tidemark_wal *wal = open_log(&options, &code);
    if (wal != NULL) return wal;
    printf("    %s: %s\n", tidemark_code_name(code), failure.message);
    fflush(stdout);
    abort();
}

/* The writer's process is gone; what it has in memory goes with it. */
static void abandon(tidemark_wal *wal) {
    tidemark_wal_free(wal);
}

/* ---- appending, with the model ---- */

static uint32_t longest_record = 180;

/* Record `position` of an attempt: its number, then bytes that depend on both. Some end in zeros, some have none. */
static size_t fill_record(unsigned char *bytes, uint32_t attempt, uint32_t position) {
    size_t length = 8 + (attempt * 37 + position * 11) % longest_record;
    memset(bytes, attempt % 3 == 0 ? 0 : (int)(attempt + position), length);
    tidemark_put32(bytes, attempt);
    tidemark_put32(bytes + 4, position);
    return length;
}

#define BATCH_MOST 4 /* records of an attempt */

/* Appends an attempt of 1 to 4 records. In unsynced mode it is acknowledged by log_sync. */
static int log_append(tidemark_wal *wal, uint32_t shard) {
    static unsigned char bytes[BATCH_MOST][200];
    tidemark_record records[BATCH_MOST];
    if (model->attempts + 1 == sizeof model->fate) abort();
    uint32_t attempt = ++model->attempts, count = 1 + attempt % BATCH_MOST;
    int64_t first = 0, last = 0;
    for (uint32_t i = 0; i < count; i++) records[i] = (tidemark_record){bytes[i], fill_record(bytes[i], attempt, i)};
    int code = tidemark_wal_append(wal, shard, records, count, &first, &last, &failure);
    if (code < 0) {
        if (!wal->poisoned || code == TIDEMARK_EPOISONED) model->fate[attempt] = FATE_REFUSED;
        return code;
    }
    CHECK_INT(last, first + count - 1);
    if (last >= SEQNO_MAX) abort();
    for (int64_t seqno = first; seqno <= last; seqno++) {
        model->written[shard][seqno] = attempt;
        model->deferred[shard][seqno] = wal->sync_later;
    }
    if (!wal->sync_later) {
        model->fate[attempt] = FATE_ACKED;
        model->acked[shard] = last;
    }
    return 0;
}

/* Syncs and acknowledges all that was appended. */
static int log_sync(tidemark_wal *wal) {
    int code = tidemark_wal_sync(wal, &failure);
    for (uint32_t shard = 0; code == 0 && shard < SHARD_MAX; shard++) {
        for (int64_t seqno = model->acked[shard] + 1; model->written[shard][seqno] != 0; seqno++) {
            if (!model->deferred[shard][seqno]) continue;
            model->deferred[shard][seqno] = false;
            model->fate[model->written[shard][seqno]] = FATE_ACKED;
            model->acked[shard] = seqno;
        }
    }
    return code;
}

/* ---- reading ---- */

/* Reads a shard to its head; each record goes to `seen` with its seqno. The last seqno, or a negative code. */
static int64_t read_log(uint32_t shard, unsigned flags, uint32_t seen[SEQNO_MAX]) {
    static unsigned char bytes[65536], expected[200];
    tidemark_wal_reader *reader = NULL;
    tidemark_batch batch;
    int64_t last = 0;
    int code = tidemark_wal_reader_open_io(log_io, directory, shard, 0, flags, &reader, &failure);
    if (code == TIDEMARK_EPRUNED) {
        struct tidemark_log log;
        struct tidemark_segment *segments;
        size_t count;
        if (tidemark_log_open(log_io, directory, &log, &failure) < 0) abort();
        if (tidemark_segment_list(log_io, log.directory, log.path, (int)shard, &segments, &count, &failure) < 0)
            abort();
        last = segments[0].first_seqno - 1;
        tidemark_free(segments);
        tidemark_log_close(&log);
        code = tidemark_wal_reader_open_io(log_io, directory, shard, last, flags, &reader, &failure);
    }
    if (code < 0) return code;
    while ((code = tidemark_wal_reader_wait(reader, 0, &batch, &failure)) == 0) {
        CHECK_INT(batch.first_seqno, last + 1);
        if (batch.size > sizeof bytes || tidemark_batch_last_seqno(&batch) >= SEQNO_MAX) abort();
        code = tidemark_wal_reader_read(reader, bytes, &batch, &failure);
        if (code < 0) break;
        for (uint32_t i = 0; i < batch.count; i++) {
            tidemark_record record = tidemark_batch_record(bytes, &batch, i);
            uint32_t attempt = record.length >= 8 ? tidemark_get32(record.bytes) : 0;
            CHECK_INT(record.length, fill_record(expected, attempt, i));
            CHECK(memcmp(record.bytes, expected, record.length) == 0);
            CHECK(attempt != 0 && attempt <= model->attempts);
            seen[++last] = attempt;
        }
    }
    tidemark_wal_reader_close(reader);
    return code == TIDEMARK_ETIMEOUT || code == TIDEMARK_EEND ? last : code;
}

/* What readers see now must stay for ever. */
static void note_visible(void) {
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        uint32_t shard = log_shards[i];
        int64_t last = read_log(shard, 0, model->visible[shard]);
        bool none = last == TIDEMARK_ENOT_FOUND || last == TIDEMARK_EUNKNOWN_SHARD; /* no heads yet */
        if (last < 0 && !none) printf("    %s: %s\n", tidemark_code_name((int)last), failure.message);
        CHECK(last >= 0 || none);
        if (none) CHECK_INT(model->acked[shard], 0);
    }
}

/* What is there now: all that was acknowledged or seen, nothing that was refused. */
static void check_log(void) {
    tidemark_wal_report report;
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        uint32_t shard = log_shards[i], seen[SEQNO_MAX] = {0};
        int64_t last = read_log(shard, 0, seen);
        if (last < 0) printf("    %s: %s\n", tidemark_code_name((int)last), failure.message);
        CHECK(last >= model->acked[shard]);
        for (int64_t seqno = 1; seqno < SEQNO_MAX && last >= 0; seqno++) {
            uint32_t *wrote = &model->written[shard][seqno], visible = model->visible[shard][seqno];
            if (seqno <= last && seen[seqno] == 0) continue; /* pruned */
            CHECK(model->fate[seen[seqno]] != FATE_REFUSED);
            if (seqno <= model->acked[shard]) CHECK_INT(seen[seqno], *wrote);
            if (visible != 0) CHECK_INT(seen[seqno], visible);
            *wrote = seen[seqno];
        }
        model->last[shard] = last;
    }
    int code = tidemark_wal_verify_io(log_io, directory, &report, &failure);
    if (code < 0) printf("    verify: %s: %s\n", tidemark_code_name(code), failure.message);
    CHECK_INT(code, 0);
}

/* What the log holds after an opening has happened, acknowledged or not. */
static void adopt_log(void) {
    check_log();
    for (size_t i = 0; i < LOG_SHARDS; i++) {
        uint32_t shard = log_shards[i];
        for (int64_t seqno = 1; seqno <= model->last[shard]; seqno++)
            model->fate[model->written[shard][seqno]] = FATE_ACKED;
        if (model->last[shard] >= 0) model->acked[shard] = model->last[shard];
    }
}

/* ---- segments ---- */

/* The path of the segment of a shard that begins with `first_seqno`. */
static const char *segment_path(uint32_t shard, int64_t first_seqno) {
    static char where[256];
    char name[TIDEMARK_SEGMENT_NAME];
    tidemark_segment_name((struct tidemark_segment){shard, first_seqno}, name);
    (void)snprintf(where, sizeof where, "%s/%s", directory, name);
    return where;
}

/* The first seqnos of the segments of a shard; returns how many. */
static size_t find_segments(uint32_t shard, int64_t *firsts, size_t most) {
    struct tidemark_log log;
    struct tidemark_segment *segments;
    size_t count;
    if (tidemark_log_open(&tidemark_io_system, directory, &log, &failure) < 0 ||
        tidemark_segment_list(&tidemark_io_system, log.directory, log.path, (int)shard, &segments, &count, &failure) <
            0)
        abort();
    if (count > most) abort();
    for (size_t i = 0; i < count; i++) firsts[i] = segments[i].first_seqno;
    tidemark_free(segments);
    tidemark_log_close(&log);
    return count;
}

static off_t file_size(const char *name) {
    struct stat status;
    if (stat(name, &status) < 0) abort();
    return status.st_size;
}

#endif
