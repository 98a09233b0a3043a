/*
 * Reading one shard of a log, in any process. A reader never looks beyond the head: what stands there may be half
 * written, or gone after the next start of the machine. It follows the heads by polling with short pauses.
 */
#define _XOPEN_SOURCE 700 /* nanosleep */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "batch.h"
#include "error.h"
#include "segment.h"
#include "state_file.h"
#include "wait.h"
#include "wal.h"

#define SHORTEST_PAUSE 0.0002 /* seconds; doubled from poll to poll */
#define LONGEST_PAUSE  0.005
#define LOOK_AGAIN     0.05 /* seconds between looks at whether the heads are still the ones on disk */

struct tidemark_wal_reader {
    struct tidemark_log log;
    struct tidemark_cursor cursor; /* while closed it stands before the first record that is wanted */
    tidemark_state *heads;         /* NULL: an archive */
    int64_t archive_head;
    int64_t after_seqno;  /* batches that end there or before are passed over */
    tidemark_batch batch; /* the one at the cursor; size 0: not yet looked at */
    double looked_at;     /* when the heads were last found current */
};

/* ---- finding the segment ---- */

static int fail_pruned(const struct tidemark_wal_reader *reader, int64_t seqno, int64_t first_seqno,
                       tidemark_error *error) {
    return tidemark_fail(error, TIDEMARK_EPRUNED,
                         "%s: shard %" PRIu32 ": records from seqno %" PRId64
                         " on were removed, the log begins with %" PRId64,
                         reader->log.path, reader->cursor.shard, seqno, first_seqno);
}

/* Opens the segment in which the first record that is wanted must stand: 1, 0 if the shard has none. EPRUNED where it
 * begins later. */
static int locate(struct tidemark_wal_reader *reader, tidemark_error *error) {
    int64_t seqno = reader->after_seqno + 1;
    for (;;) {
        struct tidemark_segment *segments;
        size_t count, position = 0;
        int result = tidemark_segment_list(reader->log.io, reader->log.directory, reader->log.path,
                                           (int)reader->cursor.shard, &segments, &count, error);
        if (result < 0) return result;
        while (position < count && segments[position].first_seqno <= seqno) position++;
        if (position > 0) {
            result = tidemark_cursor_open(&reader->cursor, segments[position - 1].first_seqno, error);
            if (result == 0) result = 1;
        } else if (count > 0) {
            result = fail_pruned(reader, seqno, segments[0].first_seqno, error);
        }
        tidemark_free(segments);
        if (result != TIDEMARK_ENOT_FOUND) return result; /* else it was removed since it was listed */
    }
}

/* The segment at the cursor has ended before the head: opens the next one, unless that is the one that was `opened` for
 * this seqno already. 0, or the reason why there is none. */
static int next_segment(struct tidemark_wal_reader *reader, bool opened, const char *why, tidemark_error *error) {
    struct tidemark_cursor *cursor = &reader->cursor;
    struct tidemark_segment *segments;
    size_t count;
    int result = opened ? TIDEMARK_ENOT_FOUND : tidemark_cursor_open(cursor, cursor->last_seqno + 1, error);
    if (result != TIDEMARK_ENOT_FOUND) return result;
    result = tidemark_segment_list(reader->log.io, reader->log.directory, reader->log.path, (int)cursor->shard,
                                   &segments, &count, error);
    if (result < 0) return result;
    if (count > 0 && segments[0].first_seqno - 1 > cursor->last_seqno)
        result = fail_pruned(reader, cursor->last_seqno + 1, segments[0].first_seqno, error);
    else
        result = tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                      "shard %" PRIu32 ": seqno %" PRId64 " is durable but is not here: %s",
                                      cursor->shard, cursor->last_seqno + 1, why);
    tidemark_free(segments);
    return result;
}

/* ---- opening ---- */

/* Whether two calls of stat have succeeded and told of the same file. */
static bool is_same(int result, const struct stat *status, int other_result, const struct stat *other) {
    return result == 0 && other_result == 0 && status->st_dev == other->st_dev && status->st_ino == other->st_ino;
}

/* Whether the heads, which are opened by path, belong to the segments, which are read from the directory that is open:
 * 0, or EREPLACED where another directory has its name now, or another segment that of one from which batches were
 * read. (One without a batch may be made anew by the next writer.) */
static int check_place(const struct tidemark_wal_reader *reader, tidemark_error *error) {
    const struct tidemark_cursor *cursor = &reader->cursor;
    struct stat ours, there;
    bool replaced = !is_same(cursor->io->fstat(cursor->directory, &ours), &ours,
                             cursor->io->fstatat(AT_FDCWD, reader->log.path, &there, 0), &there);
    if (!replaced && cursor->fd >= 0 && cursor->offset > 0) {
        int found = cursor->io->fstatat(cursor->directory, cursor->name, &there, AT_SYMLINK_NOFOLLOW);
        replaced = found == 0 && !is_same(cursor->io->fstat(cursor->fd, &ours), &ours, found, &there);
    }
    if (!replaced) return 0;
    return tidemark_fail(error, TIDEMARK_EREPLACED, "%s: was replaced since it was opened: open a new reader",
                         reader->log.path);
}

static int open_heads(struct tidemark_wal_reader *reader, tidemark_error *error) {
    tidemark_state *heads;
    struct tidemark_log_identity identity;
    int result =
        tidemark_state_open_io(reader->log.io, reader->log.heads_path, NULL, 0, TIDEMARK_OPEN_READONLY, &heads, error);
    if (result < 0) return result;
    result = tidemark_log_read_identity(&reader->log, heads, &identity, error);
    if (result == 0 && tidemark_state_applied_seqno(heads, reader->cursor.shard) < 0)
        result = tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, reader->log.path,
                               reader->cursor.shard);
    if (identity.log_id == 0) identity.log_id = reader->cursor.log_id; /* a writer is just making these heads */
    if (result == 0 && reader->cursor.log_id != 0 && identity.log_id != reader->cursor.log_id)
        result = tidemark_fail(error, TIDEMARK_EFOREIGN,
                               "%s: another log has taken the place of the one that was read here", reader->log.path);
    if (result == 0) result = check_place(reader, error);
    if (result < 0) {
        tidemark_state_release(heads);
        return result;
    }
    tidemark_state_release(reader->heads);
    reader->heads = heads;
    reader->cursor.log_id = identity.log_id;
    return 0;
}

/* The head of an archive: its last whole record. */
static int find_archive_head(struct tidemark_wal_reader *reader, tidemark_error *error) {
    struct tidemark_scan scan = {.cursor = reader->cursor};
    struct tidemark_segment *segments;
    struct tidemark_tail tail;
    size_t count;
    int result = tidemark_segment_list(reader->log.io, reader->log.directory, reader->log.path, (int)scan.cursor.shard,
                                       &segments, &count, error);
    if (result < 0) return result;
    if (count == 0)
        result = tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no segment of shard %" PRIu32,
                               reader->log.path, scan.cursor.shard);
    if (result == 0) result = tidemark_scan_begin(&scan, error);
    if (result == 0) {
        result = tidemark_scan_open(&scan, segments[count - 1].first_seqno, error);
        if (result == 0) result = tidemark_scan_tail(&scan, 0, 0, &tail, error);
        reader->archive_head = scan.cursor.last_seqno;
        tidemark_scan_end(&scan);
    }
    tidemark_free(segments);
    return result;
}

int tidemark_wal_reader_open_io(const struct tidemark_io *io, const char *directory, uint32_t shard,
                                int64_t after_seqno, unsigned flags, tidemark_wal_reader **result,
                                tidemark_error *error) {
    if (shard > TIDEMARK_SHARD_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, shard);
    if (after_seqno < 0 || after_seqno == TIDEMARK_SEQNO_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "no seqno is after %" PRId64, after_seqno);
    struct tidemark_wal_reader *reader = tidemark_calloc(1, sizeof *reader);
    if (reader == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", directory);
    int code = tidemark_log_open(io, directory, &reader->log, error);
    if (code < 0) {
        tidemark_free(reader);
        return code;
    }
    reader->after_seqno = after_seqno;
    reader->cursor = (struct tidemark_cursor){.io = io,
                                              .directory = reader->log.directory,
                                              .path = reader->log.path,
                                              .fd = -1,
                                              .shard = shard,
                                              .last_seqno = after_seqno};
    code = flags & TIDEMARK_READ_ARCHIVE ? find_archive_head(reader, error) : open_heads(reader, error);
    if (code == 0) code = locate(reader, error);
    if (code < 0) tidemark_wal_reader_close(reader);
    else *result = reader;
    return code < 0 ? code : 0;
}

int tidemark_wal_reader_open(const char *directory, uint32_t shard, int64_t after_seqno, unsigned flags,
                             tidemark_wal_reader **reader, tidemark_error *error) {
    return tidemark_wal_reader_open_io(&tidemark_io_system, directory, shard, after_seqno, flags, reader, error);
}

void tidemark_wal_reader_close(tidemark_wal_reader *reader) {
    if (reader == NULL) return;
    tidemark_cursor_close(&reader->cursor);
    tidemark_state_release(reader->heads);
    tidemark_log_close(&reader->log);
    tidemark_free(reader);
}

/* ---- reading ---- */

static int64_t head_of(const struct tidemark_wal_reader *reader) {
    return reader->heads != NULL ? tidemark_state_applied_seqno(reader->heads, reader->cursor.shard)
                                 : reader->archive_head;
}

int64_t tidemark_wal_reader_head(tidemark_wal_reader *reader) {
    return reader->heads != NULL ? head_of(reader) : TIDEMARK_EEND;
}

/* Reads the header at the cursor, which is at or below the head, into reader->batch: 1, or 0 if the segment ends here.
 */
static int read_header(struct tidemark_wal_reader *reader, tidemark_error *why) {
    unsigned char header[TIDEMARK_BATCH_HEADER];
    const struct tidemark_cursor *cursor = &reader->cursor;
    tidemark_batch batch;
    tidemark_error reason;
    if (tidemark_io_read(cursor->io, cursor->fd, header, sizeof header, cursor->offset) < 0) {
        if (errno != ENODATA)
            return tidemark_cursor_fail(cursor, why, TIDEMARK_EIO, "cannot read it: %s", strerror(errno));
        (void)tidemark_fail(why, TIDEMARK_ECORRUPT, "the segment ends");
        return 0;
    }
    int result = tidemark_batch_decode_header(header, sizeof header, &batch, &reason);
    if (result == TIDEMARK_ECORRUPT) {
        (void)tidemark_fail(why, result, "%s", reason.message);
        return 0;
    }
    if (result < 0) return tidemark_cursor_fail(cursor, why, result, "%s", reason.message);
    result = tidemark_cursor_check(cursor, &batch, why);
    if (result < 0) return result;
    reader->batch = batch;
    return 1;
}

/* Goes on to the first batch that is wanted, up to `head`: 1 if there is one, 0 if not yet. */
static int advance_to_batch(struct tidemark_wal_reader *reader, int64_t head, tidemark_error *error) {
    struct tidemark_cursor *cursor = &reader->cursor;
    tidemark_error why;
    int64_t opened_after = -1; /* the seqno behind which a segment was opened here */
    int result;
    while (cursor->last_seqno < head) {
        if (reader->batch.size != 0) return 1;
        if (cursor->fd < 0) {
            result = locate(reader, error); /* it was opened before the shard had a segment */
            if (result == 0)
                result = tidemark_fail(error, TIDEMARK_ELOST,
                                       "%s: shard %" PRIu32 ": seqno %" PRId64 " is durable but there is no segment",
                                       reader->log.path, cursor->shard, cursor->last_seqno + 1);
            if (result < 0) return result;
            continue;
        }
        result = read_header(reader, &why);
        if (result < 0) return tidemark_fail(error, result, "%s", why.message);
        if (result == 0) {
            result = next_segment(reader, opened_after == cursor->last_seqno, why.message, error);
            if (result < 0) return result;
            opened_after = cursor->last_seqno;
        } else if (tidemark_batch_last_seqno(&reader->batch) <= reader->after_seqno) {
            tidemark_cursor_pass(cursor, &reader->batch);
            reader->batch.size = 0;
        }
    }
    return 0;
}

/* After a restart of the machine, and when its files are replaced, the heads that are open no longer move. */
static int follow_heads(struct tidemark_wal_reader *reader, double time, tidemark_error *error) {
    if (time - reader->looked_at < LOOK_AGAIN) return 0;
    reader->looked_at = time;
    int current = tidemark_state_is_current(reader->heads, error);
    return current != 0 ? current : open_heads(reader, error);
}

static void pause_for(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)nanosleep(&time, NULL);
}

int tidemark_wal_reader_wait(tidemark_wal_reader *reader, double timeout, tidemark_batch *batch,
                             tidemark_error *error) {
    double deadline = -1, pause = SHORTEST_PAUSE;
    for (;;) {
        int result = advance_to_batch(reader, head_of(reader), error);
        if (result == 1) *batch = reader->batch;
        if (result != 0) return result < 0 ? result : 0;
        if (reader->heads == NULL)
            return tidemark_fail(error, TIDEMARK_EEND, "%s: shard %" PRIu32 ": the archive ends at seqno %" PRId64,
                                 reader->log.path, reader->cursor.shard, reader->archive_head);
        double time = tidemark_monotonic();
        result = follow_heads(reader, time, error);
        if (result < 0) return result;
        if (deadline < 0) deadline = timeout >= 0 ? time + timeout : time + 1e9; /* not a number: for ever */
        if (time >= deadline)
            return tidemark_fail(error, TIDEMARK_ETIMEOUT,
                                 "%s: shard %" PRIu32 ": nothing after seqno %" PRId64 " in time", reader->log.path,
                                 reader->cursor.shard, reader->cursor.last_seqno);
        pause_for(pause < deadline - time ? pause : deadline - time);
        if (pause < LONGEST_PAUSE) pause *= 2;
    }
}

int tidemark_wal_reader_read(tidemark_wal_reader *reader, void *bytes, tidemark_error *error) {
    struct tidemark_cursor *cursor = &reader->cursor;
    tidemark_batch batch;
    tidemark_error why;
    if (reader->batch.size == 0)
        return tidemark_fail(error, TIDEMARK_EINVAL, "there is no batch to read: wait for one first");
    if (tidemark_io_read(cursor->io, cursor->fd, bytes, reader->batch.size, cursor->offset) < 0) {
        if (errno == ENODATA)
            return tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                        "shard %" PRIu32 ": the batch from seqno %" PRId64 " is cut off", cursor->shard,
                                        reader->batch.first_seqno);
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read it: %s", strerror(errno));
    }
    int result = tidemark_batch_decode(bytes, reader->batch.size, &batch, &why);
    if (result < 0)
        return tidemark_cursor_fail(cursor, error, result, "shard %" PRIu32 ": %s", cursor->shard, why.message);
    tidemark_cursor_pass(cursor, &reader->batch);
    reader->batch.size = 0;
    return 0;
}
