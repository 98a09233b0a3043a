/*
 * The writer of a log: appending, syncing, rotating, closing. Opening, with all recovery, is wal_recover.c's.
 *
 * Invariants:
 *  - A head is advanced only after a successful fdatasync of the segment that holds its record, and only if heads and
 * lock are then still the ones on disk. A writer that opens later reads what was synced before, so two writers never
 * both acknowledge a seqno. Where it finds a lock that is new it copies the newest segments, so what the earlier one
 * still writes to a segment that it has open is not in the log; and that one looks again before it opens, cuts or
 * removes anything by name.
 *  - A segment and its directory entry are synced before its first batch is written. It is synced and cut behind its
 * last batch before the next one is made.
 *  - After a failed write the segment is at once cut, durably, at the end of its last batch and closed: what the write
 * left could be taken for a batch (one that ends in zeros looks whole where zeros were written ahead). After a failed
 * sync, and where that cut fails, nothing more is written (poisoned).
 */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_CLOEXEC */
#include "wal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "wal_writer.h"

#define ZERO_AHEAD   1048576 /* bytes, at most */
#define KEEP_SCRATCH 1048576 /* bytes of the scratch buffer that are kept for the next batch */

static int fail_io(const struct tidemark_wal *wal, const char *name, const char *what, tidemark_error *error) {
    return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: %s: %s", wal->log.path, name, what, strerror(errno));
}

static int poison(struct tidemark_wal *wal, const char *name, tidemark_error *error) {
    wal->poisoned = true;
    return fail_io(wal, name, "sync failed, close the log, look at the disk, and open it again", error);
}

static void name_of(const struct tidemark_wal_shard *shard, char name[TIDEMARK_SEGMENT_NAME]) {
    tidemark_segment_name((struct tidemark_segment){shard->id, shard->segment}, name);
}

/* ---- segments that are open ---- */

/* Fails with EREPLACED, and poisons the writer, if another writer may have the log: somebody has removed or replaced
 * the heads, the lock or the directory. */
static int check_owner(struct tidemark_wal *wal, tidemark_error *error) {
    int current = tidemark_state_is_current(wal->heads, error);
    const char *name = "heads";
    if (current == 1) {
        current = tidemark_log_is_locked(&wal->log, error);
        name = "lock";
    }
    bool is_moved = current == 1 && tidemark_log_is_replaced(&wal->log);
    if (current == 1 && !is_moved) return 0;
    wal->poisoned = true;
    if (current < 0) return current;
    return tidemark_fail(error, TIDEMARK_EREPLACED,
                         "%s%s%s: was removed or replaced while this writer was open, so another writer may have the "
                         "log: close it and open it again",
                         wal->log.path, is_moved ? "" : "/", is_moved ? "" : name);
}

static int sync_file(struct tidemark_wal *wal, struct tidemark_wal_file *file, tidemark_error *error) {
    struct tidemark_wal_shard *shard = file->shard;
    if (!file->unsynced) return 0;
    if (wal->log.io->fdatasync(file->fd) < 0) {
        char name[TIDEMARK_SEGMENT_NAME];
        name_of(shard, name);
        return poison(wal, name, error);
    }
    int result = check_owner(wal, error);
    if (result < 0) return result;
    file->unsynced = false;
    (void)tidemark_state_advance(wal->heads, shard->id, shard->last_seqno);
    return 0;
}

static void close_file(struct tidemark_wal *wal, struct tidemark_wal_file *file) {
    (void)wal->log.io->close(file->fd);
    if (file->shard->file == file) file->shard->file = NULL;
    file->shard = NULL;
}

/* A free place among the open files; the one that was not used for longest is synced and closed if there is none. */
static int free_place(struct tidemark_wal *wal, struct tidemark_wal_file **place, tidemark_error *error) {
    struct tidemark_wal_file *oldest = wal->files;
    for (struct tidemark_wal_file *file = wal->files; file < wal->files + TIDEMARK_WAL_FILES; file++) {
        if (file->shard == NULL) {
            *place = file;
            return 0;
        }
        if (file->used < oldest->used) oldest = file;
    }
    int result = sync_file(wal, oldest, error);
    if (result < 0) return result;
    close_file(wal, oldest);
    *place = oldest;
    return 0;
}

/* Opens the segment of the shard, which must have one; `flags` may have O_CREAT. What has the name may be another
 * writer's. */
static int open_file(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, int flags, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    struct tidemark_wal_file *file = NULL;
    int result = free_place(wal, &file, error);
    if (result == 0) result = check_owner(wal, error);
    if (result < 0) return result;
    name_of(shard, name);
    int fd = wal->log.io->openat(wal->log.directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    if (fd < 0) return fail_io(wal, name, "cannot open it", error);
    *file = (struct tidemark_wal_file){.fd = fd, .shard = shard};
    shard->file = file;
    return 0;
}

/* The segment in which the next record is the first. */
static int make_segment(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    const struct tidemark_io *io = wal->log.io;
    shard->segment = shard->last_seqno + 1;
    shard->offset = shard->zeroed = 0;
    int result = open_file(wal, shard, O_CREAT | O_EXCL, error);
    if (result < 0) {
        shard->segment = 0;
        return result;
    }
    name_of(shard, name);
    if (io->fsync(shard->file->fd) < 0 || io->fsync(wal->log.directory) < 0) return poison(wal, name, error);
    return 0;
}

/* Cuts the segment behind its last batch, and removes it if it has none. An empty one is cut as well: a reader may have
 * it open and must not see in it what the next of its name does not hold. */
static int close_segment(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, bool durably,
                         tidemark_error *error) {
    char name[TIDEMARK_SEGMENT_NAME];
    const struct tidemark_io *io = wal->log.io;
    name_of(shard, name);
    int result = shard->file == NULL ? open_file(wal, shard, 0, error) : sync_file(wal, shard->file, error);
    if (result == 0) result = check_owner(wal, error);
    if (result < 0) return result;
    if (io->ftruncate(shard->file->fd, shard->offset) < 0) return fail_io(wal, name, "cannot cut it to size", error);
    if (durably && io->fdatasync(shard->file->fd) < 0) return poison(wal, name, error);
    if (shard->offset == 0 && io->unlinkat(wal->log.directory, name, 0) < 0)
        return fail_io(wal, name, "cannot remove it, although it is empty", error);
    close_file(wal, shard->file);
    shard->segment = 0;
    return 0;
}

static int checkpoint_heads(struct tidemark_wal *wal, tidemark_error *error) {
    int result = check_owner(wal, error);
    if (result == 0) result = tidemark_state_checkpoint(wal->heads, NULL, 0, error);
    if (result == TIDEMARK_EIO || result == TIDEMARK_EPOISONED) wal->poisoned = true;
    return result;
}

/* Sees to it that the shard has a segment with room for `size` bytes. */
static int make_room(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, size_t size, tidemark_error *error) {
    int result = 0;
    bool full = shard->offset > 0 && (uint64_t)shard->offset + size > wal->segment_bytes;
    if (shard->segment != 0 && full) {
        result = close_segment(wal, shard, false, error);
        if (result == 0) result = checkpoint_heads(wal, error);
        if (result < 0) return result;
    }
    if (shard->segment == 0) result = make_segment(wal, shard, error);
    else if (shard->file == NULL) result = open_file(wal, shard, 0, error);
    return result;
}

/* ---- appending ---- */

static struct tidemark_wal_shard *find_shard(const struct tidemark_wal *wal, uint32_t id) {
    size_t low = 0, high = wal->shard_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (wal->shards[middle].id == id) return &wal->shards[middle];
        if (wal->shards[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static int check_usable(const struct tidemark_wal *wal, tidemark_error *error) {
    if (wal->process != getpid())
        return tidemark_fail(error, TIDEMARK_EFORKED,
                             "%s: opened before a fork: close it here, only the parent may write it", wal->log.path);
    if (wal->poisoned)
        return tidemark_fail(error, TIDEMARK_EPOISONED,
                             "%s: an earlier sync, or cutting off a failed write, failed: close the log, look at the "
                             "disk, and open it again",
                             wal->log.path);
    return 0;
}

static int reserve_scratch(struct tidemark_wal *wal, size_t size, tidemark_error *error) {
    if (size <= wal->scratch_size) return 0;
    tidemark_free(wal->scratch);
    wal->scratch = tidemark_malloc(size);
    wal->scratch_size = wal->scratch != NULL ? size : 0;
    if (wal->scratch == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory for a batch of %zu bytes", size);
    return 0;
}

/* Writes the encoded batch and, in steps that grow with the segment, zeros ahead of the next ones: syncing what only
 * overwrites is cheaper. The zeros may fail: the next batch then lengthens the file itself. */
static int write_batch(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, size_t size, tidemark_error *error) {
    const struct tidemark_io *io = wal->log.io;
    struct tidemark_wal_file *file = shard->file;
    off_t end = shard->offset + (off_t)size;
    file->used = ++wal->uses;
    if (tidemark_io_write(io, file->fd, wal->scratch, size, shard->offset) < 0) {
        char name[TIDEMARK_SEGMENT_NAME];
        name_of(shard, name);
        int result = fail_io(wal, name, "cannot write a batch", error);
        if (close_segment(wal, shard, true, NULL) < 0) wal->poisoned = true;
        return result;
    }
    if (end > shard->zeroed) {
        off_t zeroed = end + (end < ZERO_AHEAD ? end : ZERO_AHEAD);
        if (zeroed > (off_t)wal->segment_bytes) zeroed = (off_t)wal->segment_bytes;
        shard->zeroed = end;
        if (zeroed > end && tidemark_io_zero(io, file->fd, end, zeroed) == 0) shard->zeroed = zeroed;
    }
    file->unsynced = true;
    return 0;
}

/* Checks the arguments of an append and gives the shard. */
static int check_append(tidemark_wal *wal, uint32_t id, size_t count, int64_t size, struct tidemark_wal_shard **result,
                        tidemark_error *error) {
    int code = check_usable(wal, error);
    if (code < 0) return code;
    struct tidemark_wal_shard *shard = find_shard(wal, id);
    if (shard == NULL) {
        if (id > TIDEMARK_SHARD_MAX)
            return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, id);
        return tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "%s: the log has no shard %" PRIu32, wal->log.path, id);
    }
    if (size < 0)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard %" PRIu32 ": %s", id,
                             count == 0 ? "a batch without records" : "a batch longer than 64 MiB: append it in parts");
    if (shard->last_seqno > TIDEMARK_SEQNO_MAX - (int64_t)count)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard %" PRIu32 ": no seqno is left", id);
    *result = shard;
    return 0;
}

/* Syncs the shard if the header of the next batch could not say how many records are not yet durable. A head above the
 * last record was advanced by another writer, who must have another lock: EREPLACED. */
static int limit_undurable(struct tidemark_wal *wal, struct tidemark_wal_shard *shard, tidemark_error *error) {
    int64_t head = tidemark_state_applied_seqno(wal->heads, shard->id);
    if (head > shard->last_seqno) {
        int result = check_owner(wal, error);
        wal->poisoned = true;
        return result < 0 ? result
                          : tidemark_fail(error, TIDEMARK_EREPLACED,
                                          "%s: another writer has the log: close it and open it again", wal->log.path);
    }
    if (shard->last_seqno - head <= UINT32_MAX || shard->file == NULL) return 0;
    return sync_file(wal, shard->file, error);
}

static void drop_large_scratch(struct tidemark_wal *wal) {
    if (wal->scratch_size <= KEEP_SCRATCH) return;
    tidemark_free(wal->scratch);
    wal->scratch = NULL;
    wal->scratch_size = 0;
}

int tidemark_wal_append_origin(tidemark_wal *wal, uint32_t id, const tidemark_origin *origin,
                               const tidemark_record *records, size_t count, int64_t *first_seqno, int64_t *last_seqno,
                               tidemark_error *error) {
    struct tidemark_wal_shard *shard = NULL;
    int64_t size = tidemark_batch_size(records, count, origin != NULL);
    int result = check_append(wal, id, count, size, &shard, error);
    if (result == 0) result = limit_undurable(wal, shard, error);
    if (result < 0) return result;
    int64_t written_ms = wal->log.io->clock_ms();
    tidemark_batch batch = {
        .shard = id,
        .count = (uint32_t)count,
        .epoch = wal->identity.epoch,
        .prev_epoch = shard->epoch,
        .first_seqno = shard->last_seqno + 1,
        .durable_seqno = tidemark_state_applied_seqno(wal->heads, id),
        .written_ms = written_ms > 0 ? (uint64_t)written_ms : 0,
        .log_id = wal->identity.log_id,
        .has_origin = origin != NULL,
    };
    if (origin != NULL) batch.origin = *origin;
    result = reserve_scratch(wal, (size_t)size, error);
    if (result == 0) result = tidemark_batch_encode(&batch, records, wal->scratch, error);
    if (result == 0) result = make_room(wal, shard, batch.size, error);
    if (result == 0) result = write_batch(wal, shard, batch.size, error);
    drop_large_scratch(wal);
    if (result < 0) return result;
    shard->offset += (off_t)batch.size;
    shard->last_seqno += (int64_t)count;
    shard->epoch = batch.epoch;
    if (!wal->sync_later) result = sync_file(wal, shard->file, error);
    if (result < 0) return result;
    if (first_seqno != NULL) *first_seqno = batch.first_seqno;
    if (last_seqno != NULL) *last_seqno = shard->last_seqno;
    return 0;
}

int tidemark_wal_append(tidemark_wal *wal, uint32_t shard, const tidemark_record *records, size_t count,
                        int64_t *first_seqno, int64_t *last_seqno, tidemark_error *error) {
    return tidemark_wal_append_origin(wal, shard, NULL, records, count, first_seqno, last_seqno, error);
}

int tidemark_wal_sync(tidemark_wal *wal, tidemark_error *error) {
    int result = check_usable(wal, error);
    for (size_t i = 0; result == 0 && i < TIDEMARK_WAL_FILES; i++) {
        if (wal->files[i].shard != NULL) result = sync_file(wal, &wal->files[i], error);
    }
    return result;
}

/* ---- closing ---- */

void tidemark_wal_free(struct tidemark_wal *wal) {
    for (size_t i = 0; i < TIDEMARK_WAL_FILES; i++) {
        if (wal->files[i].shard != NULL) close_file(wal, &wal->files[i]);
    }
    tidemark_state_release(wal->heads);
    while (wal->recovery != NULL) {
        struct tidemark_wal_message *next = wal->recovery->next;
        tidemark_free(wal->recovery);
        wal->recovery = next;
    }
    /* a child that was forked since then has the descriptor too, and may live longer */
    if (wal->log.lock >= 0 && wal->process == getpid())
        (void)tidemark_io_lock(wal->log.io, wal->log.lock, F_UNLCK, 0, false);
    tidemark_log_close(&wal->log);
    tidemark_free(wal->shards);
    tidemark_free(wal->scratch);
    tidemark_free(wal);
}

int tidemark_wal_close(tidemark_wal *wal, tidemark_error *error) {
    int result = check_usable(wal, error);
    for (size_t i = 0; i < wal->shard_count && check_usable(wal, NULL) == 0; i++) {
        if (wal->shards[i].segment == 0) continue;
        int closed = close_segment(wal, &wal->shards[i], false, result == 0 ? error : NULL);
        if (result == 0) result = closed;
    }
    if (check_usable(wal, NULL) == 0) {
        int saved = checkpoint_heads(wal, result == 0 ? error : NULL);
        if (result == 0) result = saved;
    }
    tidemark_wal_free(wal);
    return result;
}

/* ---- asking ---- */

tidemark_state *tidemark_wal_heads(const tidemark_wal *wal) {
    return wal->heads;
}

uint64_t tidemark_wal_epoch(const tidemark_wal *wal) {
    return wal->identity.epoch;
}

uint32_t tidemark_wal_log_id(const tidemark_wal *wal) {
    return wal->identity.log_id;
}

const char *tidemark_wal_recovery(const tidemark_wal *wal, size_t position) {
    const struct tidemark_wal_message *message = wal->recovery;
    for (; message != NULL && position > 0; position--) message = message->next;
    return message != NULL ? message->text : NULL;
}
