/* What one does to a log without writing it: verify and prune. Both need no writer and may run beside one. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "state_file.h"
#include "wal.h"

/* ---- verify ---- */

/* Reads the `count` segments of a shard, ascending, up to its head. `heads` may be NULL. */
static int verify_shard(struct tidemark_scan *scan, const struct tidemark_segment *segments, size_t count,
                        const tidemark_state *heads, tidemark_wal_report *report, tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    struct tidemark_tail tail;
    struct stat status;
    cursor->shard = segments[0].shard;
    cursor->epoch = 0;
    int64_t head = heads != NULL ? tidemark_state_applied_seqno(heads, cursor->shard) : 0;
    if (head < 0) head = 0;
    for (size_t i = 0; i < count; i++) {
        int result = tidemark_scan_open(scan, segments[i].first_seqno, error);
        if (result == TIDEMARK_ENOT_FOUND) { /* removed since it was listed: what the next one follows is not known */
            cursor->epoch = 0;
            continue;
        }
        if (result < 0) return result;
        result = tidemark_scan_tail(scan, head, i + 1 < count ? segments[i + 1].first_seqno : 0, &tail, error);
        report->segments++;
        report->batches += tail.batches;
        report->records += tail.records;
        report->bytes += (uint64_t)tail.end;
        if (result < 0) return result;
        if (cursor->io->fstat(cursor->fd, &status) < 0)
            return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read its status: %s", strerror(errno));
        if (tail.torn) report->unknown += (uint64_t)(status.st_size - tail.end);
    }
    return 0;
}

/* Every shard that has segments, and that every head above 0 has some. */
static int verify_shards(struct tidemark_scan *scan, const struct tidemark_segment *segments, size_t count,
                         const tidemark_state *heads, tidemark_wal_report *report, tidemark_error *error) {
    int head_shard = heads != NULL ? tidemark_state_next(heads, -1) : -1;
    size_t first = 0;
    while (first < count || head_shard >= 0) {
        if (head_shard >= 0 && (first == count || (uint32_t)head_shard < segments[first].shard)) {
            int64_t head = tidemark_state_applied_seqno(heads, (uint32_t)head_shard);
            if (head > 0)
                return tidemark_fail(error, TIDEMARK_ELOST,
                                     "%s: shard %d: there is no segment, but seqno %" PRId64 " had been durable",
                                     scan->cursor.path, head_shard, head);
            report->shards++;
        } else {
            size_t next = first;
            while (next < count && segments[next].shard == segments[first].shard) next++;
            int result = verify_shard(scan, segments + first, next - first, heads, report, error);
            if (result < 0) return result;
            report->shards++;
            first = next;
            if (head_shard < 0 || (uint32_t)head_shard != segments[first - 1].shard) continue;
        }
        head_shard = tidemark_state_next(heads, head_shard);
    }
    return 0;
}

int tidemark_wal_verify_io(const struct tidemark_io *io, const char *directory, tidemark_wal_report *report,
                           tidemark_error *error) {
    struct tidemark_log log;
    struct tidemark_log_identity identity = {0};
    struct tidemark_segment *segments = NULL;
    tidemark_state *heads = NULL, *marks = NULL;
    tidemark_error ignored;
    size_t count;
    if (error == NULL) error = &ignored;
    *report = (tidemark_wal_report){0};
    int result = tidemark_log_open(io, directory, &log, error);
    if (result < 0) return result;
    result = tidemark_state_open_io(io, log.heads_path, NULL, 0, TIDEMARK_OPEN_READONLY, &heads, error);
    if (result == 0) result = tidemark_log_read_identity(&log, heads, &identity, error);
    if (result == 0) result = tidemark_state_clone(heads, &marks, error); /* of one moment, before the listing */
    if (result == 0 || result == TIDEMARK_ENOT_FOUND)
        result = tidemark_segment_list(io, log.directory, log.path, -1, &segments, &count, error);
    if (result == 0 && heads == NULL && count == 0)
        result = tidemark_fail(error, TIDEMARK_ENOT_FOUND, "%s: there is no log in it", directory);
    struct tidemark_scan scan = {
        .cursor = {.io = io, .directory = log.directory, .path = log.path, .fd = -1, .log_id = identity.log_id}};
    tidemark_log_set_evidence(&scan, heads != NULL ? &identity : NULL);
    if (result == 0) result = tidemark_scan_begin(&scan, error);
    if (result == 0) {
        result = verify_shards(&scan, segments, count, marks, report, error);
        tidemark_scan_end(&scan);
    }
    tidemark_free(segments);
    tidemark_state_release(marks);
    tidemark_state_release(heads);
    tidemark_log_close(&log);
    return result;
}

int tidemark_wal_verify(const char *directory, tidemark_wal_report *report, tidemark_error *error) {
    return tidemark_wal_verify_io(&tidemark_io_system, directory, report, error);
}

/* ---- prune ---- */

/* Removes the cut tails of a shard up to the segment that begins with `most`. */
struct cut_tails {
    const struct tidemark_log *log;
    uint32_t shard;
    int64_t most;
};

static int remove_cut_tail(void *context, const char *name) {
    const struct cut_tails *tails = context;
    struct tidemark_segment segment;
    if (!tidemark_cut_parse(name, &segment) || segment.shard != tails->shard || segment.first_seqno > tails->most)
        return 0;
    return tails->log->io->unlinkat(tails->log->directory, name, 0) < 0 && errno != ENOENT ? -1 : 0;
}

/* Removes the first removable segments, oldest first, so that what is left never has a hole, and the tails that were
 * cut from them. The next segment must begin at or below the head: of the last record the epoch must stay known. */
static int remove_segments(const struct tidemark_log *log, const struct tidemark_segment *segments, size_t count,
                           int64_t upto, int64_t head, tidemark_error *error) {
    int removed = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        char name[TIDEMARK_SEGMENT_NAME];
        if (segments[i + 1].first_seqno - 1 > upto || segments[i + 1].first_seqno > head) break;
        tidemark_segment_name(segments[i], name);
        if (log->io->unlinkat(log->directory, name, 0) < 0 && errno != ENOENT)
            return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: cannot remove it: %s", log->path, name, strerror(errno));
        removed++;
    }
    if (removed == 0) return 0;
    struct cut_tails tails = {log, segments[0].shard, segments[removed - 1].first_seqno};
    if (log->io->list(log->directory, remove_cut_tail, &tails) < 0)
        return tidemark_io_fail(error, log->path, "", "cannot remove the tails that were cut from pruned segments");
    if (log->io->fsync(log->directory) < 0) return tidemark_io_fail(error, log->path, "", "cannot sync it");
    return removed;
}

int tidemark_wal_prune_io(const struct tidemark_io *io, const char *directory, uint32_t shard, int64_t upto,
                          tidemark_error *error) {
    struct tidemark_log log;
    struct tidemark_log_identity identity;
    struct tidemark_segment *segments;
    tidemark_state *heads = NULL;
    size_t count;
    if (shard > TIDEMARK_SHARD_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, shard);
    if (upto < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "seqno out of range: %" PRId64, upto);
    int result = tidemark_log_open(io, directory, &log, error);
    if (result < 0) return result;
    result = tidemark_state_open_io(io, log.heads_path, NULL, 0, TIDEMARK_OPEN_READONLY, &heads, error);
    if (result == 0) result = tidemark_log_read_identity(&log, heads, &identity, error);
    if (result == 0) {
        int64_t head = tidemark_state_applied_seqno(heads, shard);
        if (head < 0)
            result =
                tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, directory, shard);
        if (result == 0)
            result = tidemark_segment_list(io, log.directory, log.path, (int)shard, &segments, &count, error);
        if (result == 0) {
            result = remove_segments(&log, segments, count, upto, head, error);
            tidemark_free(segments);
        }
    }
    tidemark_state_release(heads);
    tidemark_log_close(&log);
    return result;
}

int tidemark_wal_prune(const char *directory, uint32_t shard, int64_t upto, tidemark_error *error) {
    return tidemark_wal_prune_io(&tidemark_io_system, directory, shard, upto, error);
}
