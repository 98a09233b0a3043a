/*
 * Reading one shard of a log, in any process. A reader never looks beyond the head: what stands there may be half
 * written, or gone after the next start of the machine. Directory and heads are its source's, which it may share.
 */
#define _XOPEN_SOURCE 700 /* AT_SYMLINK_NOFOLLOW */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "batch.h"
#include "error.h"
#include "segment.h"
#include "wait.h"
#include "wal_source.h"

struct tidemark_wal_reader {
    tidemark_wal_source *source;   /* a reference */
    uint64_t turn, history_turn;   /* of the source, as far as it was found to go with what was read */
    struct tidemark_cursor cursor; /* while closed it stands before the first record that is wanted */
    int64_t known_seqno;           /* the highest one over which the cursor has gone; 0: none */
    uint64_t known_epoch;          /* of that record */
    bool unmatched;                /* another writer has opened the log since, and may have another record there */
    bool unconfirmed;              /* the source was not seen to have the heads on disk since a segment was opened */
    int64_t archive_head;          /* if the source is an archive */
    int64_t after_seqno;           /* batches that end there or before are passed over */
    tidemark_batch batch;          /* the one at the cursor; size 0: not yet looked at */
};

/* ---- finding the segment ---- */

static int fail_pruned(const struct tidemark_wal_reader *reader, int64_t seqno, int64_t first_seqno,
                       tidemark_error *error) {
    return tidemark_fail(error, TIDEMARK_EPRUNED,
                         "%s: shard %" PRIu32 ": records from seqno %" PRId64
                         " on were removed, the log begins with %" PRId64,
                         reader->cursor.path, reader->cursor.shard, seqno, first_seqno);
}

static int list_segments(const struct tidemark_wal_reader *reader, struct tidemark_segment **segments, size_t *count,
                         tidemark_error *error) {
    const struct tidemark_cursor *cursor = &reader->cursor;
    return tidemark_segment_list(cursor->io, cursor->directory, cursor->path, (int)cursor->shard, segments, count,
                                 error);
}

/* Opens the segment in which the first record that is wanted must stand: 1, 0 if the shard has none. EPRUNED where it
 * begins later. */
static int locate(struct tidemark_wal_reader *reader, tidemark_error *error) {
    int64_t seqno = reader->after_seqno + 1;
    for (;;) {
        struct tidemark_segment *segments;
        size_t count, position = 0;
        int result = list_segments(reader, &segments, &count, error);
        if (result < 0) return result;
        while (position < count && segments[position].first_seqno <= seqno) position++;
        if (position > 0) {
            result = tidemark_cursor_open(&reader->cursor, segments[position - 1].first_seqno, error);
            if (result == 0) {
                if (reader->cursor.last_seqno != reader->known_seqno) reader->cursor.epoch = 0;
                result = reader->unconfirmed = true;
            }
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
    if (result == 0) reader->unconfirmed = true;
    if (result != TIDEMARK_ENOT_FOUND) return result;
    result = list_segments(reader, &segments, &count, error);
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

/* Whether the segment from which batches were read is not the one that is in the directory. */
static bool is_segment_replaced(const struct tidemark_cursor *cursor) {
    struct stat ours, there;
    if (cursor->fd < 0 || cursor->offset == 0) return false;
    if (cursor->io->fstatat(cursor->directory, cursor->name, &there, AT_SYMLINK_NOFOLLOW) < 0) return false;
    return cursor->io->fstat(cursor->fd, &ours) < 0 || !tidemark_io_is_same(&ours, &there);
}

/* Drops what was found and not given yet, for another writer may have left it. A segment from which nothing was read
 * may have been made again since, or be gone: it is looked for again. */
static void drop_unread(struct tidemark_wal_reader *reader) {
    struct tidemark_cursor *cursor = &reader->cursor;
    reader->batch.size = 0;
    if (cursor->fd < 0 || cursor->offset > 0) return;
    tidemark_cursor_close(cursor);
    if (reader->after_seqno < cursor->last_seqno) reader->after_seqno = cursor->last_seqno;
    cursor->last_seqno = reader->after_seqno;
}

static int fail_replaced(const struct tidemark_wal_reader *reader, tidemark_error *error) {
    return tidemark_fail(error, TIDEMARK_EREPLACED, "%s: was replaced since it was opened: open a new reader",
                         reader->cursor.path);
}

/* Compares the last record that was read with the one that the log has now: 0 if they are the same, 1 while the log
 * ends before it, so that nothing is known and nothing may be read. EREPLACED if it is of another epoch, or why that
 * cannot be found out: EPRUNED, ELOST, ... */
static int match(struct tidemark_wal_reader *reader, tidemark_error *error) {
    uint64_t epoch;
    if (!reader->unmatched) return 0;
    if (reader->known_seqno > 0) {
        int code =
            tidemark_wal_source_find_epoch(reader->source, reader->cursor.shard, reader->known_seqno, &epoch, error);
        if (code == TIDEMARK_EAHEAD) return 1;
        if (code < 0) return code;
        if (epoch != reader->known_epoch) return fail_replaced(reader, error);
    }
    reader->unmatched = false;
    return 0;
}

/* Called when the source has opened heads that are new to the reader: checks that they belong to the log that this
 * reader has been reading. Heads with another file id are those of another history, even in the same directory.
 * 0, 1 while nothing may be read (match); EUNKNOWN_SHARD, EFOREIGN, EREPLACED, or as match. */
static int settle(struct tidemark_wal_reader *reader, tidemark_error *error) {
    const tidemark_wal_source *source = reader->source;
    struct tidemark_cursor *cursor = &reader->cursor;
    if (reader->turn == source->turn) return match(reader, error);
    if (source->heads != NULL && tidemark_state_applied_seqno(source->heads, cursor->shard) < 0)
        return tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, cursor->path,
                             cursor->shard);
    if (cursor->log_id != 0 && source->log_id != 0 && source->log_id != cursor->log_id)
        return tidemark_fail(error, TIDEMARK_EFOREIGN,
                             "%s: another log has taken the place of the one that was read here", cursor->path);
    if (reader->history_turn != source->history_turn || is_segment_replaced(cursor))
        return fail_replaced(reader, error);
    if (cursor->log_id == 0) cursor->log_id = source->log_id;
    drop_unread(reader);
    reader->turn = source->turn;
    reader->unmatched = source->heads != NULL;
    return match(reader, error);
}

/* Finds the head of an archive: what its heads say or, without them, its last whole record. Damage there is no failure
 * yet: all before it can be read, and the reader then says what is wrong. */
static int find_archive_head(struct tidemark_wal_reader *reader, tidemark_error *error) {
    struct tidemark_scan scan = {.cursor = reader->cursor};
    struct tidemark_segment *segments;
    struct tidemark_tail tail;
    size_t count;
    if (reader->source->archive_heads != NULL) {
        reader->archive_head = tidemark_state_applied_seqno(reader->source->archive_heads, scan.cursor.shard);
        if (reader->archive_head >= 0) return 0;
        return tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, reader->cursor.path,
                             scan.cursor.shard);
    }
    int result = list_segments(reader, &segments, &count, error);
    if (result < 0) return result;
    if (count == 0)
        result = tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no segment of shard %" PRIu32,
                               reader->cursor.path, scan.cursor.shard);
    tidemark_log_set_evidence(&scan, NULL);
    if (result == 0) result = tidemark_scan_begin(&scan, error);
    if (result == 0) {
        result = tidemark_scan_open(&scan, segments[count - 1].first_seqno, error);
        if (result == 0) result = tidemark_scan_tail(&scan, 0, 0, &tail, error);
        reader->archive_head = scan.cursor.last_seqno + (result == TIDEMARK_ECORRUPT);
        if (result == TIDEMARK_ECORRUPT) result = 0;
        tidemark_scan_end(&scan);
    }
    tidemark_free(segments);
    return result;
}

/* Opens a reader that takes over the caller's reference to the source; on failure that is dropped. */
static int open_reader(tidemark_wal_source *source, uint32_t shard, int64_t after_seqno, tidemark_wal_reader **result,
                       tidemark_error *error) {
    tidemark_wal_reader *reader = tidemark_calloc(1, sizeof *reader);
    if (reader == NULL) {
        int code = tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", source->log.path);
        tidemark_wal_source_close(source);
        return code;
    }
    reader->source = source;
    reader->history_turn = source->history_turn;
    reader->after_seqno = after_seqno;
    reader->cursor = (struct tidemark_cursor){.io = source->log.io,
                                              .directory = source->log.directory,
                                              .path = source->log.path,
                                              .fd = -1,
                                              .shard = shard,
                                              .last_seqno = after_seqno};
    int code = settle(reader, error);
    if (code == 0 && source->heads == NULL) code = find_archive_head(reader, error);
    if (code == 0) code = locate(reader, error);
    if (code < 0) tidemark_wal_reader_close(reader);
    else *result = reader;
    return code < 0 ? code : 0;
}

static int check_arguments(uint32_t shard, int64_t after_seqno, tidemark_error *error) {
    if (shard > TIDEMARK_SHARD_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, shard);
    if (after_seqno < 0 || after_seqno == TIDEMARK_SEQNO_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "no seqno is after %" PRId64, after_seqno);
    return 0;
}

int tidemark_wal_source_reader(tidemark_wal_source *source, uint32_t shard, int64_t after_seqno,
                               tidemark_wal_reader **reader, tidemark_error *error) {
    int code = check_arguments(shard, after_seqno, error);
    if (code == 0) code = tidemark_wal_source_look(source, tidemark_monotonic(), error);
    if (code < 0) return code;
    source->references++;
    return open_reader(source, shard, after_seqno, reader, error);
}

int tidemark_wal_reader_open_io(const struct tidemark_io *io, const char *directory, uint32_t shard,
                                int64_t after_seqno, unsigned flags, tidemark_wal_reader **reader,
                                tidemark_error *error) {
    tidemark_wal_source *source = NULL;
    int code = check_arguments(shard, after_seqno, error);
    if (code == 0) code = tidemark_wal_source_open_io(io, directory, flags & TIDEMARK_READ_ARCHIVE, &source, error);
    return code < 0 ? code : open_reader(source, shard, after_seqno, reader, error);
}

int tidemark_wal_reader_open(const char *directory, uint32_t shard, int64_t after_seqno, unsigned flags,
                             tidemark_wal_reader **reader, tidemark_error *error) {
    return tidemark_wal_reader_open_io(&tidemark_io_system, directory, shard, after_seqno, flags, reader, error);
}

void tidemark_wal_reader_close(tidemark_wal_reader *reader) {
    if (reader == NULL) return;
    tidemark_cursor_close(&reader->cursor);
    tidemark_wal_source_close(reader->source);
    tidemark_free(reader);
}

/* ---- reading ---- */

int64_t tidemark_wal_reader_head(tidemark_wal_reader *reader) {
    const tidemark_state *heads = reader->source->heads;
    return heads != NULL ? tidemark_state_applied_seqno(heads, reader->cursor.shard) : TIDEMARK_EEND;
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

/* Goes over the batch at the cursor. */
static void pass(struct tidemark_wal_reader *reader) {
    struct tidemark_cursor *cursor = &reader->cursor;
    tidemark_cursor_pass(cursor, &reader->batch);
    reader->batch.size = 0;
    if (cursor->last_seqno < reader->known_seqno) return;
    reader->known_seqno = cursor->last_seqno;
    reader->known_epoch = cursor->epoch;
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
                                       reader->cursor.path, cursor->shard, cursor->last_seqno + 1);
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
            pass(reader);
        }
    }
    return 0;
}

/* Checks that the batch that was found may be given: 1, 0 if it is to be looked for again, EREPLACED, or why the heads
 * cannot be looked at. A writer that replaces the heads does so before it makes a segment. So a batch of a segment that
 * was opened before the heads were seen to be the ones on disk is durable, and one of a segment that was opened later
 * may not be. */
static int confirm(struct tidemark_wal_reader *reader, tidemark_error *error) {
    tidemark_wal_source *source = reader->source;
    if (!reader->unconfirmed || source->heads == NULL) return 1;
    int result = tidemark_wal_source_look_now(source, error);
    if (result == TIDEMARK_ENOT_FOUND) return 1; /* without heads nobody makes a segment */
    if (result == 0) result = settle(reader, error);
    if (result < 0) return result;
    if (reader->batch.size == 0) return 0; /* another writer has opened the log, and its head may be lower */
    reader->unconfirmed = false;
    return 1;
}

/* What was found wrong, with the message in `error`, may be so because another writer has opened the log since: 0 if it
 * is to be looked for again, EREPLACED and the like, or else `code`. */
static int judge_damage(struct tidemark_wal_reader *reader, int code, tidemark_error *error) {
    tidemark_error why;
    uint64_t turn = reader->turn;
    if (reader->source->heads == NULL || tidemark_wal_source_look_now(reader->source, NULL) < 0) return code;
    int result = settle(reader, &why);
    if (result < 0) return tidemark_fail(error, result, "%s", why.message);
    return reader->turn == turn ? code : 0;
}

int tidemark_wal_reader_wait(tidemark_wal_reader *reader, double timeout, tidemark_batch *batch,
                             tidemark_error *error) {
    tidemark_wal_source *source = reader->source;
    const struct tidemark_cursor *cursor = &reader->cursor;
    double deadline = -1;
    for (;;) {
        int result = settle(reader, error);
        if (result == 0)
            result = advance_to_batch(
                reader, source->heads != NULL ? tidemark_wal_reader_head(reader) : reader->archive_head, error);
        else if (result > 0) result = 0; /* as if there were no batch yet */
        if (result < 0) {
            result = judge_damage(reader, result, error);
            if (result < 0) return result;
            continue;
        }
        if (result == 1) {
            result = confirm(reader, error);
            if (result == 0) continue;
            if (result < 0) return result;
            *batch = reader->batch;
            return 0;
        }
        if (source->heads == NULL)
            return tidemark_fail(error, TIDEMARK_EEND, "%s: shard %" PRIu32 ": the archive ends at seqno %" PRId64,
                                 cursor->path, cursor->shard, reader->archive_head);
        double time = tidemark_monotonic();
        if (deadline < 0) deadline = tidemark_wal_source_deadline(time, timeout);
        result = tidemark_wal_source_look(source, time, error);
        if (result < 0) return result;
        if (source->turn != reader->turn) continue;
        const tidemark_mark mark = {cursor->shard, cursor->last_seqno > reader->known_seqno ? cursor->last_seqno
                                                                                            : reader->known_seqno};
        uint32_t shard;
        result = tidemark_wal_source_sleep(source, &mark, 1, time, deadline, &shard, error);
        if (result == TIDEMARK_ETIMEOUT)
            return tidemark_fail(error, result, "%s: shard %" PRIu32 ": nothing after seqno %" PRId64 " in time",
                                 cursor->path, cursor->shard, cursor->last_seqno);
        if (result < 0) return result;
    }
}

/* Reads and checks the batch at the cursor. */
static int read_batch(const struct tidemark_wal_reader *reader, void *bytes, tidemark_batch *batch,
                      tidemark_error *error) {
    const struct tidemark_cursor *cursor = &reader->cursor;
    tidemark_error why;
    if (tidemark_io_read(cursor->io, cursor->fd, bytes, reader->batch.size, cursor->offset) < 0) {
        if (errno == ENODATA)
            return tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                        "shard %" PRIu32 ": the batch from seqno %" PRId64 " is cut off", cursor->shard,
                                        reader->batch.first_seqno);
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read it: %s", strerror(errno));
    }
    int result = tidemark_batch_decode(bytes, reader->batch.size, batch, &why);
    if (result < 0)
        return tidemark_cursor_fail(cursor, error, result, "shard %" PRIu32 ": %s", cursor->shard, why.message);
    return 0;
}

int tidemark_wal_reader_read(tidemark_wal_reader *reader, void *bytes, tidemark_batch *batch, tidemark_error *error) {
    if (reader->batch.size == 0)
        return tidemark_fail(error, TIDEMARK_EINVAL, "there is no batch to read: wait for one first");
    int result = read_batch(reader, bytes, batch, error);
    if (result == 0) pass(reader);
    else reader->unconfirmed = true; /* the log may just be restored: the next wait looks at the heads first */
    return result;
}
