/*
 * The epoch of any seqno of a log, for log matching: two histories that have the same epoch at one seqno are the same
 * up to there.
 *
 * A segment holds batches of one epoch only, so the header of its first batch answers for all of it.
 */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "wait.h"
#include "wal_source.h"

/* Reads the header of the first batch of the segment that begins with `first_seqno`. ENOT_FOUND, ECORRUPT, EIO, ... */
static int read_first(struct tidemark_cursor *cursor, int64_t first_seqno, tidemark_batch *batch,
                      tidemark_error *error) {
    unsigned char header[TIDEMARK_BATCH_HEADER];
    tidemark_error why;
    int result = tidemark_cursor_open(cursor, first_seqno, error);
    if (result < 0) return result;
    if (tidemark_io_read(cursor->io, cursor->fd, header, sizeof header, 0) < 0) {
        int code = errno == ENODATA ? TIDEMARK_ECORRUPT : TIDEMARK_EIO;
        return tidemark_cursor_fail(cursor, error, code, "cannot read it: %s", strerror(errno));
    }
    result = tidemark_batch_decode_header(header, sizeof header, batch, &why);
    if (result < 0) return tidemark_cursor_fail(cursor, error, result, "%s", why.message);
    return tidemark_cursor_check(cursor, batch, error);
}

/* Checks that the segment at the cursor, which begins with `batch`, goes on to a durable seqno: it is the last one that
 * is here, and those after it may be lost. ELOST. */
static int check_holds(struct tidemark_cursor *cursor, tidemark_batch *batch, int64_t seqno, tidemark_error *error) {
    unsigned char header[TIDEMARK_BATCH_HEADER];
    for (;;) {
        tidemark_cursor_pass(cursor, batch);
        if (cursor->last_seqno >= seqno) return 0;
        if (tidemark_io_read(cursor->io, cursor->fd, header, sizeof header, cursor->offset) < 0) {
            if (errno == ENODATA) break;
            return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read it: %s", strerror(errno));
        }
        if (tidemark_batch_decode_header(header, sizeof header, batch, NULL) < 0) break;
        int result = tidemark_cursor_check(cursor, batch, error);
        if (result < 0) return result;
    }
    return tidemark_cursor_fail(cursor, error, TIDEMARK_ELOST,
                                "shard %" PRIu32 ": seqno %" PRId64
                                " had been durable, but the log ends at seqno %" PRId64,
                                cursor->shard, seqno, cursor->last_seqno);
}

/* The same once for each segment, as far as it was asked for. */
static int check_reached(tidemark_wal_source *source, struct tidemark_cursor *cursor, tidemark_batch *batch,
                         int64_t seqno, tidemark_error *error) {
    struct tidemark_reached *reached = &source->reached;
    int64_t first_seqno = batch->first_seqno;
    if (reached->history_turn == source->history_turn && reached->shard == cursor->shard &&
        reached->first_seqno == first_seqno && reached->last_seqno >= seqno)
        return 0;
    int result = check_holds(cursor, batch, seqno, error);
    if (result == 0)
        *reached = (struct tidemark_reached){source->history_turn, cursor->shard, first_seqno, cursor->last_seqno};
    return result;
}

/* Finds the epoch in the `count` segments of the shard, of which one has a durable record. ENOT_FOUND if a segment was
 * removed meanwhile. */
static int find_epoch(tidemark_wal_source *source, struct tidemark_cursor *cursor,
                      const struct tidemark_segment *segments, size_t count, int64_t head, int64_t seqno,
                      uint64_t *epoch, tidemark_error *error) {
    tidemark_batch batch, next;
    size_t position = 0;
    int64_t first = segments[0].first_seqno;
    if (seqno < first - 1)
        return tidemark_fail(error, TIDEMARK_EPRUNED,
                             "%s: shard %" PRIu32 ": the epoch of seqno %" PRId64
                             " is not known any more, the log begins with %" PRId64,
                             cursor->path, cursor->shard, seqno, first);
    while (position < count && segments[position].first_seqno <= seqno) position++;
    int result = read_first(cursor, segments[position > 0 ? position - 1 : 0].first_seqno, &batch, error);
    if (result == 0) *epoch = position > 0 ? batch.epoch : batch.prev_epoch;
    if (result < 0 || position == 0) return result;
    if (position == count || segments[position].first_seqno > head)
        return check_reached(source, cursor, &batch, seqno, error);
    /* where a segment between these two is gone, the one found does not hold the record */
    result = read_first(cursor, segments[position].first_seqno, &next, error);
    if (result == 0 && next.prev_epoch != batch.epoch)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_ECORRUPT,
                                    "shard %" PRIu32 ": the segment before it is not here", cursor->shard);
    return result;
}

/* With a seqno above 0 and at or below the head. */
static int read_epoch(tidemark_wal_source *source, uint32_t shard, int64_t head, int64_t seqno, uint64_t *epoch,
                      tidemark_error *error) {
    const struct tidemark_log *log = &source->log;
    struct tidemark_cursor cursor = {.io = log->io,
                                     .directory = log->directory,
                                     .path = log->path,
                                     .fd = -1,
                                     .shard = shard,
                                     .log_id = source->log_id};
    int result;
    do {
        struct tidemark_segment *segments;
        size_t count;
        result = tidemark_segment_list(log->io, log->directory, log->path, (int)shard, &segments, &count, error);
        if (result < 0) break;
        if (count == 0)
            result = tidemark_fail(error, TIDEMARK_ELOST,
                                   "%s: shard %" PRIu32 ": seqno %" PRId64 " is durable but there is no segment",
                                   log->path, shard, seqno);
        else result = find_epoch(source, &cursor, segments, count, head, seqno, epoch, error);
        tidemark_free(segments);
    } while (result == TIDEMARK_ENOT_FOUND); /* it was pruned after it was listed */
    tidemark_cursor_close(&cursor);
    return result;
}

int tidemark_wal_source_find_epoch(tidemark_wal_source *source, uint32_t shard, int64_t seqno, uint64_t *epoch,
                                   tidemark_error *error) {
    int64_t head = tidemark_state_applied_seqno(source->heads, shard);
    if (head < 0)
        return tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, source->log.path,
                             shard);
    if (seqno > head)
        return tidemark_fail(error, TIDEMARK_EAHEAD,
                             "%s: shard %" PRIu32 ": seqno %" PRId64 " is above the head, %" PRId64, source->log.path,
                             shard, seqno, head);
    *epoch = 0;
    return seqno == 0 ? 0 : read_epoch(source, shard, head, seqno, epoch, error);
}

int tidemark_wal_source_epoch(tidemark_wal_source *source, uint32_t shard, int64_t seqno, uint64_t *epoch,
                              tidemark_error *error) {
    if (shard > TIDEMARK_SHARD_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, shard);
    if (seqno < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "seqno out of range: %" PRId64, seqno);
    for (;;) {
        int result = tidemark_wal_source_look(source, tidemark_monotonic(), error);
        if (result < 0) return result;
        uint64_t turn = source->history_turn;
        result = tidemark_wal_source_find_epoch(source, shard, seqno, epoch, error);
        /* segments of a writer that has replaced the heads say nothing about the old ones */
        if (tidemark_wal_source_look_now(source, NULL) < 0 || source->history_turn == turn) return result;
    }
}
