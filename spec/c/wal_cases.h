/* What the programs about epochs, losses, tails and writers share beside wal_files.h: records that are texts, copies of
 * whole directories, and what the files of a log hold. */
#ifndef TIDEMARK_WAL_CASES_H
#define TIDEMARK_WAL_CASES_H

#include "wal_files.h"

static char heads_path[192], heads_live_path[224], lock_path[192];

static void set_log_paths(void) {
    (void)snprintf(heads_path, sizeof heads_path, "%s/heads", directory);
    (void)snprintf(heads_live_path, sizeof heads_live_path, "%s/heads.live", directory);
    (void)snprintf(lock_path, sizeof lock_path, "%s/lock", directory);
}

/* ---- writing texts ---- */

static int append_text(tidemark_wal *wal, uint32_t shard, const char *text) {
    tidemark_record record = {text, strlen(text)};
    return tidemark_wal_append(wal, shard, &record, 1, NULL, NULL, &failure);
}

/* Appends "PREFIX SHARD SEQNO". */
static int append_next(tidemark_wal *wal, uint32_t shard, const char *prefix) {
    char text[48];
    int64_t seqno = 0;
    for (size_t i = 0; i < wal->shard_count; i++) {
        if (wal->shards[i].id == shard) seqno = wal->shards[i].last_seqno + 1;
    }
    (void)snprintf(text, sizeof text, "%s %u %lld", prefix, (unsigned)shard, (long long)seqno);
    return append_text(wal, shard, text);
}

static int64_t head_of(const tidemark_wal *wal, uint32_t shard) {
    return tidemark_state_applied_seqno(tidemark_wal_heads(wal), shard);
}

static void close_log(tidemark_wal *wal) {
    int code = tidemark_wal_close(wal, &failure);
    if (code < 0) printf("    close: %s\n", failure.message);
    CHECK_INT(code, 0);
}

/* ---- reading texts ---- */

#define TEXTS 128

struct texts {
    int64_t first, last; /* of what was read; last is first - 1 if there was nothing */
    uint64_t epoch[TEXTS];
    char text[TEXTS][48];
};

/* Reads on to the head. Returns ETIMEOUT or EEND at the end, or why it ended. */
static int read_on(tidemark_wal_reader *reader, struct texts *texts) {
    static unsigned char bytes[65536];
    tidemark_batch batch;
    int code;
    while ((code = tidemark_wal_reader_wait(reader, 0, &batch, &failure)) == 0) {
        if (batch.size > sizeof bytes) abort();
        code = tidemark_wal_reader_read(reader, bytes, &batch, &failure);
        if (code < 0) break;
        CHECK_INT(batch.first_seqno, texts->last + 1);
        for (uint32_t i = 0; i < batch.count; i++) {
            tidemark_record record = tidemark_batch_record(bytes, &batch, i);
            if (++texts->last >= TEXTS) abort();
            texts->epoch[texts->last] = batch.epoch;
            (void)snprintf(texts->text[texts->last], sizeof *texts->text, "%.*s", (int)record.length,
                           (const char *)record.bytes);
        }
    }
    return code;
}

static int read_texts(uint32_t shard, int64_t after, unsigned flags, struct texts *texts) {
    tidemark_wal_reader *reader;
    memset(texts, 0, sizeof *texts);
    texts->first = after + 1;
    texts->last = after;
    int code = tidemark_wal_reader_open_io(log_io, directory, shard, after, flags, &reader, &failure);
    if (code < 0) return code;
    code = read_on(reader, texts);
    tidemark_wal_reader_close(reader);
    return code;
}

/* The shard holds "old SHARD N" up to `old`, then "new SHARD N" up to `last`, and all of it can be read. */
static void check_texts(uint32_t shard, int64_t old, int64_t last) {
    static struct texts texts;
    char expected[48];
    int code = read_texts(shard, 0, 0, &texts);
    if (code != TIDEMARK_ETIMEOUT) printf("    shard %u: %s\n", (unsigned)shard, failure.message);
    CHECK_INT(code, TIDEMARK_ETIMEOUT);
    CHECK_INT(texts.last, last);
    for (int64_t seqno = 1; seqno <= texts.last; seqno++) {
        (void)snprintf(expected, sizeof expected, "%s %u %lld", seqno <= old ? "old" : "new", (unsigned)shard,
                       (long long)seqno);
        CHECK_STR(texts.text[seqno], expected);
        if (seqno > 1) CHECK(texts.epoch[seqno] >= texts.epoch[seqno - 1]);
    }
}

static void check_verify(void) {
    tidemark_wal_report report;
    int code = tidemark_wal_verify_io(log_io, directory, &report, &failure);
    if (code < 0) printf("    verify: %s\n", failure.message);
    CHECK_INT(code, 0);
}

/* What the heads say of the log. */
static struct tidemark_log_identity identity_of_log(void) {
    struct tidemark_log_identity identity = {0};
    struct tidemark_log log;
    tidemark_state *heads;
    if (tidemark_log_open(&tidemark_io_system, directory, &log, &failure) < 0) return identity;
    if (tidemark_state_open_io(&tidemark_io_system, heads_path, NULL, 0, TIDEMARK_OPEN_READONLY, &heads, &failure) ==
        0) {
        (void)tidemark_log_read_identity(&log, heads, &identity, &failure);
        tidemark_state_release(heads);
    }
    tidemark_log_close(&log);
    return identity;
}

/* ---- files ---- */

#define SNAPSHOT_MOST 65536 /* bytes of a file; the rest of a state file is a hole */

/* The beginning of a file, to be freed; `*size` is all of it. */
static unsigned char *read_file(const char *name, size_t *size) {
    *size = (size_t)file_size(name);
    size_t length = *size < SNAPSHOT_MOST ? *size : SNAPSHOT_MOST;
    unsigned char *bytes = calloc(1, SNAPSHOT_MOST);
    if (bytes == NULL) abort();
    get_bytes(name, 0, bytes, length);
    return bytes;
}

/* All files of a directory, as they are at one moment. */
struct snapshot {
    size_t count;
    struct {
        char name[80];
        unsigned char *bytes;
        size_t size;
    } file[64];
};

static void snapshot_take(struct snapshot *snapshot) {
    char where[256];
    DIR *entries = opendir(directory);
    snapshot->count = 0;
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        if (snapshot->count == 64 || strlen(entry->d_name) >= sizeof snapshot->file->name) abort();
        (void)snprintf(where, sizeof where, "%s/%.80s", directory, entry->d_name);
        (void)snprintf(snapshot->file[snapshot->count].name, sizeof snapshot->file->name, "%.79s", entry->d_name);
        snapshot->file[snapshot->count].bytes = read_file(where, &snapshot->file[snapshot->count].size);
        snapshot->count++;
    }
    if (entries != NULL) (void)closedir(entries);
}

static void snapshot_drop(struct snapshot *snapshot) {
    for (size_t i = 0; i < snapshot->count; i++) free(snapshot->file[i].bytes);
    snapshot->count = 0;
}

/* Whether the segments and kept tails are the ones of the snapshot, to the byte; no more and no fewer. */
static bool are_segments_same(const struct snapshot *before) {
    struct snapshot now;
    size_t same = 0, segments[2] = {0};
    snapshot_take(&now);
    for (size_t i = 0; i < now.count; i++) {
        if (strstr(now.file[i].name, ".wal") == NULL) continue;
        segments[0]++;
        for (size_t j = 0; j < before->count; j++) {
            same += strcmp(before->file[j].name, now.file[i].name) == 0 && before->file[j].size == now.file[i].size &&
                    memcmp(before->file[j].bytes, now.file[i].bytes, SNAPSHOT_MOST) == 0;
        }
    }
    for (size_t j = 0; j < before->count; j++) segments[1] += strstr(before->file[j].name, ".wal") != NULL;
    snapshot_drop(&now);
    return same == segments[0] && same == segments[1];
}

/* How many names of the directory hold `part`; `*found` is the last of them, if it is not NULL. */
static int count_names(const char *part, char found[256]) {
    int count = 0;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.' || strstr(entry->d_name, part) == NULL) continue;
        if (found != NULL) (void)snprintf(found, 256, "%s", entry->d_name);
        count++;
    }
    if (entries != NULL) (void)closedir(entries);
    return count;
}

/* The first seqno of the newest segment of a shard; 0 if it has none. */
static int64_t newest_segment(uint32_t shard) {
    int64_t firsts[64];
    size_t count = find_segments(shard, firsts, 64);
    return count > 0 ? firsts[count - 1] : 0;
}

static void drop_file(const char *name) {
    if (unlink(name) < 0) abort();
}

static void drop_heads(void) {
    drop_file(heads_path);
    (void)unlink(heads_live_path);
}

#endif
