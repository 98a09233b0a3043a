/*
 * Recovery: what an earlier writer left in the segments, and its repair.
 *
 * A shard's newest segment is read whole, the one before it only if the newest has no batch. Whole batches above the
 * head may be in the page cache only, so they are written again and synced before a head claims them.
 */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "wal_writer.h"

int tidemark_wal_tell(struct tidemark_wal *wal, tidemark_error *error, const char *format, ...) {
    struct tidemark_wal_message *message = tidemark_malloc(sizeof *message);
    if (message == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", wal->log.path);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message->text, sizeof message->text, format, arguments);
    va_end(arguments);
    message->next = NULL;
    *wal->recovery_end = message;
    wal->recovery_end = &message->next;
    return 0;
}

/* ---- reading ---- */

/* Notes that the shard ends before its head, at the place of the cursor. */
static void note_loss(struct tidemark_repair *repair, const struct tidemark_cursor *cursor) {
    repair->lost = true;
    (void)snprintf(repair->where, sizeof repair->where, "%s: offset %lld", cursor->name, (long long)cursor->offset);
}

/* Checks that no record is missing above `head` and before the last of `count` segments: nothing has said so far that
 * these records are here. Those before the first segment may have been pruned. The cursor is left as it is. ECORRUPT.
 */
static int check_before(struct tidemark_scan *scan, const struct tidemark_segment *segments, size_t count, int64_t head,
                        tidemark_error *error) {
    const struct tidemark_cursor kept = scan->cursor;
    struct tidemark_tail tail;
    int result = 0;
    for (size_t i = count - 1; result == 0 && i > 0 && segments[i].first_seqno - 1 > head; i--) {
        scan->cursor.epoch = 0;
        result = tidemark_scan_open(scan, segments[i - 1].first_seqno, error);
        if (result == 0) result = tidemark_scan_tail(scan, head, segments[i].first_seqno, &tail, error);
    }
    if (result < 0) return result;
    int fd = scan->cursor.fd;
    scan->cursor = kept;
    scan->cursor.fd = fd;
    return 0;
}

/* Reads the last of `count` segments, and the one before it if that has no batch. */
static int read_newest(struct tidemark_scan *scan, const struct tidemark_segment *segments, size_t count,
                       struct tidemark_repair *repair, tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    struct tidemark_tail before;
    struct stat status;
    repair->segment = segments[count - 1];
    int result = tidemark_scan_open(scan, repair->segment.first_seqno, error);
    if (result == 0) result = tidemark_scan_tail(scan, repair->head, 0, &repair->tail, error);
    if (result == TIDEMARK_ELOST) {
        note_loss(repair, cursor);
        result = 0;
    }
    if (result < 0) return result;
    if (cursor->io->fstat(cursor->fd, &status) < 0)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read its status: %s", strerror(errno));
    repair->size = status.st_size;
    if (repair->tail.batches == 0 && count > 1) {
        count--;
        result = tidemark_scan_open(scan, segments[count - 1].first_seqno, error);
        if (result == 0) result = tidemark_scan_tail(scan, repair->head, repair->segment.first_seqno, &before, error);
    } else if (repair->tail.batches == 0 && cursor->last_seqno > 0) { /* nothing is known of the record before it */
        note_loss(repair, cursor);
        cursor->last_seqno = 0;
    }
    /* the end of a shard that has lost records must be where its last record is, and not after another hole */
    return result < 0 ? result : check_before(scan, segments, count, repair->lost ? 0 : repair->head, error);
}

/* Reads what is needed of the `count` segments of a shard. */
static int read_shard(struct tidemark_wal *wal, struct tidemark_wal_shard *shard,
                      const struct tidemark_segment *segments, size_t count, struct tidemark_scan *scan,
                      struct tidemark_repair *repair, tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    int64_t head = wal->heads != NULL ? tidemark_state_applied_seqno(wal->heads, shard->id) : 0;
    *repair = (struct tidemark_repair){.head = head > 0 ? head : 0};
    /* without heads nobody knows how many records there were, not even whether a shard without segments had some */
    repair->lost = wal->heads == NULL || (count == 0 && repair->head > 0);
    if (count == 0) return 0;
    cursor->shard = shard->id;
    cursor->epoch = 0;
    cursor->log_id = wal->identity.log_id;
    tidemark_log_set_evidence(scan, wal->heads != NULL ? &wal->identity : NULL);
    int result = read_newest(scan, segments, count, repair, error);
    if (result < 0) return result;
    shard->last_seqno = cursor->last_seqno;
    shard->epoch = cursor->epoch;
    wal->identity.log_id = cursor->log_id;
    if (wal->identity.epoch < shard->epoch) wal->identity.epoch = shard->epoch;
    return 0;
}

int tidemark_wal_read_shards(struct tidemark_wal *wal, const struct tidemark_segment *segments, size_t count,
                             struct tidemark_repair *repairs, tidemark_error *error) {
    struct tidemark_scan scan = {
        .cursor = {.io = wal->log.io, .directory = wal->log.directory, .path = wal->log.path, .fd = -1}};
    size_t first = 0;
    int result = tidemark_scan_begin(&scan, error);
    for (size_t i = 0; result == 0 && i < wal->shard_count; i++) {
        size_t next = first;
        while (next < count && segments[next].shard == wal->shards[i].id) next++;
        result = read_shard(wal, &wal->shards[i], segments + first, next - first, &scan, &repairs[i], error);
        first = next;
    }
    tidemark_scan_end(&scan);
    return result;
}

/* ---- repairing ---- */

/* Copies [from, to) of one file to offset `at` of another, or onto itself. Returns 0, or -1 and errno. */
static int copy(const struct tidemark_io *io, int source, off_t from, off_t to, int target, off_t at) {
    unsigned char block[16384];
    while (from < to) {
        size_t length = to - from < (off_t)sizeof block ? (size_t)(to - from) : sizeof block;
        if (tidemark_io_read(io, source, block, length, from) < 0 ||
            tidemark_io_write(io, target, block, length, at) < 0)
            return -1;
        from += (off_t)length;
        at += (off_t)length;
    }
    return 0;
}

/* Keeps what comes after the last whole batch of `fd` in a file of its own, durably. An opening with the same explicit
 * epoch that was cut off here may have left a part of it: that one has cut nothing. */
static int keep_tail(struct tidemark_wal *wal, const struct tidemark_repair *repair, int fd, tidemark_error *error) {
    char name[TIDEMARK_CUT_NAME], path[TIDEMARK_CUT_NAME + 1];
    const struct tidemark_io *io = wal->log.io;
    const char *failed = NULL;
    tidemark_cut_name(repair->segment, repair->tail.end, wal->identity.epoch, name);
    (void)snprintf(path, sizeof path, "/%s", name);
    (void)io->unlinkat(wal->log.directory, name, 0);
    int kept = io->openat(wal->log.directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (kept < 0) failed = "cannot make it";
    else if (copy(io, fd, repair->tail.end, repair->size, kept, 0) < 0) failed = "cannot copy the torn tail";
    else if (io->fsync(kept) < 0 || io->fsync(wal->log.directory) < 0) failed = "sync failed";
    int reason = errno;
    if (kept >= 0) (void)io->close(kept);
    if (kept >= 0 && failed != NULL) (void)io->unlinkat(wal->log.directory, name, 0); /* the next attempt has room */
    errno = reason;
    if (failed != NULL) return tidemark_io_fail(error, wal->log.path, path, failed);
    return tidemark_wal_tell(wal, error, "shard %" PRIu32 ": kept the %lld bytes of a torn tail as %s/%s",
                             repair->segment.shard, (long long)(repair->size - repair->tail.end), wal->log.path, name);
}

/* Puts a copy of the whole batches of `fd` in its place. A writer of a lock that was removed may have the old file
 * open: what it still writes there must not be in the log. */
static int replace_file(struct tidemark_wal *wal, const struct tidemark_repair *repair, int fd, const char *name,
                        tidemark_error *error) {
    static const char aside[] = "segment.aside";
    const struct tidemark_io *io = wal->log.io;
    const char *failed = NULL;
    (void)io->unlinkat(wal->log.directory, aside, 0);
    int made = io->openat(wal->log.directory, aside, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (made < 0) failed = "cannot make it";
    else if (copy(io, fd, 0, repair->tail.end, made, 0) < 0) failed = "cannot copy a segment into it";
    else if (io->fsync(made) < 0) failed = "sync failed";
    else if (io->renameat(wal->log.directory, aside, wal->log.directory, name) < 0) failed = "cannot rename it";
    int reason = errno;
    if (made >= 0) (void)io->close(made);
    if (failed == NULL) return 0;
    (void)io->unlinkat(wal->log.directory, aside, 0);
    errno = reason;
    return tidemark_io_fail(error, wal->log.path, "/segment.aside", failed);
}

/* Writes again, cuts, syncs and, if it is empty, removes the segment that is open as `fd`. */
static int repair_file(struct tidemark_wal *wal, const struct tidemark_repair *repair, int fd, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    const struct tidemark_io *io = wal->log.io;
    const struct tidemark_tail *tail = &repair->tail;
    const char *failed = NULL;
    int result = tail->torn ? keep_tail(wal, repair, fd, error) : 0;
    if (result < 0) return result;
    tidemark_segment_name(repair->segment, name);
    if (!wal->log.is_settled && tail->end > 0) return replace_file(wal, repair, fd, name, error);
    if (copy(io, fd, tail->above_head, tail->end, fd, tail->above_head) < 0) failed = "cannot write it again";
    else if (repair->size > tail->end && io->ftruncate(fd, tail->end) < 0) failed = "cannot cut it to size";
    else if (io->fsync(fd) < 0) failed = "sync failed";
    if (failed == NULL && tail->end == 0 && io->unlinkat(wal->log.directory, name, 0) < 0)
        failed = "cannot remove it, although it is empty";
    if (failed == NULL) return 0;
    return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: %s: %s", wal->log.path, name, failed, strerror(errno));
}

static int repair_shard(struct tidemark_wal *wal, const struct tidemark_repair *repair, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    const struct tidemark_tail *tail = &repair->tail;
    bool rewritten = tail->above_head < tail->end;
    bool cut = repair->size > tail->end;
    int result = 0;
    if (repair->segment.first_seqno == 0 || (tail->end > 0 && !cut && !rewritten && wal->log.is_settled)) return 0;
    tidemark_segment_name(repair->segment, name);
    if (tail->torn)
        result = tidemark_wal_tell(wal, error, "shard %" PRIu32 ": cut a torn batch: %s/%s: offset %lld",
                                   repair->segment.shard, wal->log.path, name, (long long)tail->end);
    if (result == 0 && rewritten)
        result = tidemark_wal_tell(wal, error,
                                   "shard %" PRIu32
                                   ": kept %lld bytes that were written but not yet acknowledged: %s/%s: offset %lld",
                                   repair->segment.shard, (long long)(tail->end - tail->above_head), wal->log.path,
                                   name, (long long)tail->above_head);
    if (result < 0) return result;
    int fd = wal->log.io->openat(wal->log.directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: cannot open it: %s", wal->log.path, name, strerror(errno));
    result = repair_file(wal, repair, fd, error);
    (void)wal->log.io->close(fd);
    return result;
}

int tidemark_wal_repair_shards(struct tidemark_wal *wal, const struct tidemark_repair *repairs, tidemark_error *error) {
    int result = 0;
    for (size_t i = 0; result == 0 && i < wal->shard_count; i++) result = repair_shard(wal, &repairs[i], error);
    if (result == 0 && wal->log.io->fsync(wal->log.directory) < 0)
        result = tidemark_io_fail(error, wal->log.path, "", "cannot sync it");
    return result;
}
