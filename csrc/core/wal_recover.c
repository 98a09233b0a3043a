/*
 * Opening a log for writing. All shards are read first; only when nothing speaks against it is anything changed, and
 * heads are published last. So a refusal leaves the log as it was, and an opening that is cut off anywhere can be done
 * again.
 *
 * A shard's last segment is read whole, the one before it only where the last one has no batch. What stands whole above
 * the head may be in the page cache only, so it is written again and synced before the head says that it is durable.
 */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "state_file.h"
#include "wait.h"
#include "wal_writer.h"

#define SEGMENT_BYTES 67108864

/* What recovery found of a shard's last segment and has to do about it. */
struct mend {
    struct tidemark_segment segment; /* first_seqno 0: the shard has none */
    struct tidemark_tail tail;
    bool cut; /* there is something behind tail.end */
};

/* ---- reading ---- */

/* Adds a sentence to what tidemark_wal_recovery gives. */
__attribute__((format(printf, 3, 4))) static int tell(struct tidemark_wal *wal, tidemark_error *error,
                                                      const char *format, ...) {
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

/* Reads what is needed of the `count` segments of a shard, ascending. Fills shard->last_seqno and shard->epoch, and
 * learns the log id. */
static int read_shard(struct tidemark_wal *wal, struct tidemark_wal_shard *shard,
                      const struct tidemark_segment *segments, size_t count, struct tidemark_scan *scan,
                      struct mend *mend, tidemark_error *error) {
    struct tidemark_cursor *cursor = &scan->cursor;
    int64_t head = tidemark_state_applied_seqno(wal->heads, shard->id);
    if (head < 0) head = 0; /* a shard that the heads do not know */
    struct stat status;
    mend->segment.first_seqno = 0;
    if (count == 0 && head > 0)
        return tidemark_fail(error, TIDEMARK_ELOST,
                             "%s: shard %" PRIu32 ": there is no segment, but seqno %" PRId64
                             " had been durable: restore the segments",
                             wal->log.path, shard->id, head);
    if (count == 0) return 0;
    mend->segment = segments[count - 1];
    cursor->shard = shard->id;
    cursor->epoch = 0;
    cursor->log_id = wal->identity.log_id;
    int result = tidemark_scan_open(scan, mend->segment.first_seqno, error);
    if (result == 0) result = tidemark_scan_tail(scan, head, 0, &mend->tail, error);
    if (result == 0 && mend->tail.torn)
        result = tell(wal, error, "shard %" PRIu32 ": cut a torn batch: %s", shard->id, error->message);
    if (result < 0) return result;
    if (wal->log.io->fstat(cursor->fd, &status) < 0)
        return tidemark_cursor_fail(cursor, error, TIDEMARK_EIO, "cannot read its status: %s", strerror(errno));
    mend->cut = status.st_size > mend->tail.end;
    shard->last_seqno = cursor->last_seqno;
    if (mend->tail.batches == 0 && count > 1) {
        struct tidemark_tail before;
        result = tidemark_scan_open(scan, segments[count - 2].first_seqno, error);
        if (result == 0) result = tidemark_scan_tail(scan, head, mend->segment.first_seqno, &before, error);
        if (result < 0) return result;
    } else if (mend->tail.batches == 0 && shard->last_seqno > 0) {
        return tidemark_cursor_fail(cursor, error, TIDEMARK_ELOST,
                                    "shard %" PRIu32 ": no record is left before seqno %" PRId64
                                    ": restore the segment before this one",
                                    shard->id, mend->segment.first_seqno);
    }
    shard->epoch = cursor->epoch;
    wal->identity.log_id = cursor->log_id;
    if (wal->identity.epoch < shard->epoch) wal->identity.epoch = shard->epoch;
    return 0;
}

static int read_shards(struct tidemark_wal *wal, const struct tidemark_segment *segments, size_t count,
                       struct mend *mends, tidemark_error *error) {
    struct tidemark_scan scan = {
        .cursor = {.io = wal->log.io, .directory = wal->log.directory, .path = wal->log.path, .fd = -1}};
    size_t first = 0;
    int result = tidemark_scan_begin(&scan, error);
    for (size_t i = 0; result == 0 && i < wal->shard_count; i++) {
        size_t next = first;
        while (next < count && segments[next].shard == wal->shards[i].id) next++;
        result = read_shard(wal, &wal->shards[i], segments + first, next - first, &scan, &mends[i], error);
        first = next;
    }
    tidemark_scan_end(&scan);
    return result;
}

/* ---- mending ---- */

static int rewrite(const struct tidemark_io *io, int fd, off_t from, off_t to) {
    unsigned char block[16384];
    while (from < to) {
        size_t length = to - from < (off_t)sizeof block ? (size_t)(to - from) : sizeof block;
        if (tidemark_io_read(io, fd, block, length, from) < 0 || tidemark_io_write(io, fd, block, length, from) < 0)
            return -1;
        from += (off_t)length;
    }
    return 0;
}

/* Makes the last segment of a shard end, durably, behind its last whole batch. */
static int mend_shard(struct tidemark_wal *wal, const struct mend *mend, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    const struct tidemark_io *io = wal->log.io;
    const struct tidemark_tail *tail = &mend->tail;
    bool rewritten = tail->above_head < tail->end;
    const char *failed = NULL;
    int result = 0;
    if (mend->segment.first_seqno == 0 || (tail->end > 0 && !mend->cut && !rewritten)) return 0;
    tidemark_segment_name(mend->segment, name);
    if (rewritten)
        result = tell(wal, error, "shard %" PRIu32 ": made %lld bytes above the head durable: %s/%s: offset %lld",
                      mend->segment.shard, (long long)(tail->end - tail->above_head), wal->log.path, name,
                      (long long)tail->above_head);
    if (result < 0) return result;
    int fd = io->openat(wal->log.directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) failed = "cannot open it";
    else if (rewritten && rewrite(io, fd, tail->above_head, tail->end) < 0) failed = "cannot write it again";
    else if (mend->cut && io->ftruncate(fd, tail->end) < 0) failed = "cannot cut it to size";
    else if (io->fsync(fd) < 0) failed = "sync failed";
    else if (tail->end == 0 && io->unlinkat(wal->log.directory, name, 0) < 0)
        failed = "cannot remove it, although it is empty";
    int reason = errno;
    if (fd >= 0) (void)io->close(fd);
    errno = reason;
    if (failed == NULL) return 0;
    return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: %s: %s", wal->log.path, name, failed, strerror(errno));
}

/* ---- opening ---- */

/* In a new log: its own name in the directory above becomes durable before anything is made in it. */
static int sync_name(const struct tidemark_wal *wal, tidemark_error *error) {
    const struct tidemark_io *io = wal->log.io;
    struct stat status;
    if (io->fstatat(wal->log.directory, "heads", &status, AT_SYMLINK_NOFOLLOW) == 0) return 0;
    if (errno != ENOENT) return tidemark_io_fail(error, wal->log.heads_path, "", "cannot read its status");
    int fd = io->openat(wal->log.directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    int result = 0;
    if (fd < 0 || io->fsync(fd) < 0)
        result = tidemark_io_fail(error, wal->log.path, "", "cannot sync the directory above");
    if (fd >= 0) (void)io->close(fd);
    return result;
}

static int list_segments(const struct tidemark_wal *wal, struct tidemark_segment **segments, size_t *count,
                         tidemark_error *error) {
    return tidemark_segment_list(wal->log.io, wal->log.directory, wal->log.path, -1, segments, count, error);
}

/* Opens the heads, with the shards that they have, and becomes the writer. */
static int become_writer(struct tidemark_wal *wal, bool shards_wanted, tidemark_error *error) {
    struct tidemark_segment *segments = NULL;
    size_t count = 0;
    int result = shards_wanted ? 0 : list_segments(wal, &segments, &count, error);
    tidemark_free(segments);
    if (result == 0) result = sync_name(wal, error);
    if (result < 0) return result;
    unsigned flags = shards_wanted || count > 0 ? 0 : TIDEMARK_OPEN_EXISTING;
    result = tidemark_state_open_io(wal->log.io, wal->log.heads_path, NULL, 0, flags, &wal->heads, error);
    if (result == 0) return tidemark_state_lock_writer(wal->heads, error);
    if (result != TIDEMARK_ENOT_FOUND || flags == 0) return result;
    return tidemark_fail(error, TIDEMARK_EINVAL, "%s: a new log needs at least one shard", wal->log.path);
}

/* The shards of the log: those that the heads or segments know, and those asked for. */
static int gather_shards(struct tidemark_wal *wal, const tidemark_wal_options *options,
                         const struct tidemark_segment *segments, size_t count, tidemark_error *error) {
    bool *there = tidemark_calloc(TIDEMARK_SHARD_MAX + 1, sizeof *there);
    if (there == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", wal->log.path);
    for (size_t i = 0; i < options->shard_count; i++) there[options->shards[i]] = true;
    for (size_t i = 0; i < count; i++) there[segments[i].shard] = true;
    for (int id = -1; (id = tidemark_state_next(wal->heads, id)) >= 0;) there[id] = true;
    size_t wanted = 0;
    for (uint32_t id = 0; id <= TIDEMARK_SHARD_MAX; id++) wanted += there[id];
    int result = 0;
    wal->shards = tidemark_calloc(wanted + 1, sizeof *wal->shards);
    if (wal->shards == NULL)
        result = tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for %zu shards", wal->log.path, wanted);
    else if (wanted == 0)
        result = tidemark_fail(error, TIDEMARK_EINVAL, "%s: a new log needs at least one shard", wal->log.path);
    for (uint32_t id = 0; result == 0 && id <= TIDEMARK_SHARD_MAX; id++) {
        if (there[id]) wal->shards[wal->shard_count++].id = id;
    }
    tidemark_free(there);
    return result;
}

/* Lets the heads track all shards of the log. */
static int track_shards(const struct tidemark_wal *wal, tidemark_error *error) {
    tidemark_state *again = NULL;
    if (tidemark_state_count(wal->heads) == wal->shard_count) return 0;
    uint32_t *ids = tidemark_malloc(wal->shard_count * sizeof *ids);
    if (ids == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", wal->log.path);
    for (size_t i = 0; i < wal->shard_count; i++) ids[i] = wal->shards[i].id;
    int result = tidemark_state_open_io(wal->log.io, wal->log.heads_path, ids, wal->shard_count, TIDEMARK_OPEN_EXISTING,
                                        &again, error);
    tidemark_state_release(again);
    tidemark_free(ids);
    return result;
}

static int begin_epoch(struct tidemark_wal *wal, uint32_t wanted, tidemark_error *error) {
    if (wanted == 0 && wal->identity.epoch < TIDEMARK_EPOCH_MAX) wanted = wal->identity.epoch + 1;
    if (wanted <= wal->identity.epoch)
        return tidemark_fail(error, TIDEMARK_EFENCED, "%s: epoch %" PRIu32 " is not above the last one, %" PRIu32,
                             wal->log.path, wanted, wal->identity.epoch);
    wal->identity.epoch = wanted;
    return 0;
}

static int new_log_id(struct tidemark_wal *wal, tidemark_error *error) {
    unsigned char id[16];
    while (wal->identity.log_id == 0) {
        if (wal->log.io->random_id(id) < 0)
            return tidemark_io_fail(error, wal->log.path, "", "no random numbers for its id");
        wal->identity.log_id = tidemark_get64(id);
    }
    return 0;
}

/* Reads, decides, mends, publishes: in this order. */
static int recover(struct tidemark_wal *wal, uint32_t epoch, const struct tidemark_segment *segments, size_t count,
                   tidemark_error *error) {
    struct mend *mends = tidemark_calloc(wal->shard_count, sizeof *mends);
    if (mends == NULL)
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for %zu shards", wal->log.path, wal->shard_count);
    int result = tidemark_log_read_identity(&wal->log, wal->heads, &wal->identity, error);
    if (result == 0) result = read_shards(wal, segments, count, mends, error);
    if (result == 0) result = begin_epoch(wal, epoch, error);
    if (result == 0) result = new_log_id(wal, error);
    for (size_t i = 0; result == 0 && i < wal->shard_count; i++) result = mend_shard(wal, &mends[i], error);
    tidemark_free(mends);
    if (result == 0 && wal->log.io->fsync(wal->log.directory) < 0)
        result = tidemark_io_fail(error, wal->log.path, "", "cannot sync it");
    if (result == 0) result = track_shards(wal, error);
    if (result < 0) return result;
    tidemark_state_wake_always(wal->heads); /* readers open them to read only */
    for (size_t i = 0; i < wal->shard_count; i++)
        (void)tidemark_state_advance(wal->heads, wal->shards[i].id, wal->shards[i].last_seqno);
    return tidemark_log_write_identity(wal->heads, &wal->identity, error);
}

static int open_locked(struct tidemark_wal *wal, const tidemark_wal_options *options, tidemark_error *error) {
    struct tidemark_segment *segments;
    size_t count;
    int result = become_writer(wal, options->shard_count > 0, error);
    if (result == 0) result = list_segments(wal, &segments, &count, error);
    if (result < 0) return result;
    result = gather_shards(wal, options, segments, count, error);
    if (result == 0) result = recover(wal, options->epoch, segments, count, error);
    tidemark_free(segments);
    return result;
}

int tidemark_wal_open_io(const struct tidemark_io *io, const char *directory, const tidemark_wal_options *options,
                         tidemark_wal **result, tidemark_error *error) {
    static const tidemark_wal_options none;
    tidemark_error why; /* recovery reads messages, also where it goes on */
    if (options == NULL) options = &none;
    if (options->segment_bytes > INT64_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "%s: segment_bytes out of range", directory);
    for (size_t i = 0; i < options->shard_count; i++) {
        if (options->shards[i] > TIDEMARK_SHARD_MAX)
            return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, options->shards[i]);
    }
    if (options->shard_count > 0 && io->mkdirat(AT_FDCWD, directory, 0700) < 0 && errno != EEXIST)
        return tidemark_io_fail(error, directory, "", "cannot make the directory");
    struct tidemark_wal *wal = tidemark_calloc(1, sizeof *wal);
    if (wal == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", directory);
    wal->process = getpid();
    wal->recovery_end = &wal->recovery;
    wal->segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : SEGMENT_BYTES;
    wal->sync_later = options->unsynced != 0;
    int code = tidemark_log_open(io, directory, &wal->log, error);
    if (code < 0) {
        tidemark_free(wal);
        return code;
    }
    code = open_locked(wal, options, &why);
    if (code == 0) {
        *result = wal;
        return 0;
    }
    tidemark_wal_free(wal);
    return tidemark_fail(error, code, "%s", why.message);
}

int tidemark_wal_open(const char *directory, const tidemark_wal_options *options, tidemark_wal **wal,
                      tidemark_error *error) {
    return tidemark_wal_open_io(&tidemark_io_system, directory, options, wal, error);
}
