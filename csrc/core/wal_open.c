/*
 * Opening a log for writing. All shards are read first. Only if nothing is wrong is anything changed, and the heads are
 * published last. So a refusal leaves the log as it was, and an opening that is cut off anywhere can be done again.
 */
#define _XOPEN_SOURCE 700 /* AT_SYMLINK_NOFOLLOW, O_DIRECTORY, O_CLOEXEC */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "epoch.h"
#include "error.h"
#include "state_file.h"
#include "wait.h"
#include "wal_writer.h"

#define SEGMENT_BYTES 67108864
#define PATH_MOST     56 /* bytes of the path in the message of a loss: its end */

/* What is known while a log is opened. */
struct opening {
    struct tidemark_wal *wal;
    const tidemark_wal_options *options;
    struct tidemark_segment *segments;
    size_t count;
    struct tidemark_repair *repairs; /* one for each shard */
    bool has_heads;                  /* there is a file `heads`, readable or not */
};

/* ---- heads ---- */

/* Makes the name of a new log durable in the directory above it, before anything is made in the log. */
static int sync_name(const struct tidemark_wal *wal, tidemark_error *error) {
    const struct tidemark_io *io = wal->log.io;
    int fd = io->openat(wal->log.directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    int result = 0;
    if (fd < 0 || io->fsync(fd) < 0)
        result = tidemark_io_fail(error, wal->log.path, "", "cannot sync the directory above");
    if (fd >= 0) (void)io->close(fd);
    return result;
}

static int attach_heads(struct tidemark_wal *wal, unsigned flags, tidemark_error *error) {
    int result = tidemark_state_open_io(wal->log.io, wal->log.heads_path, NULL, 0, flags, &wal->heads, error);
    if (result == 0) result = tidemark_log_read_identity(&wal->log, wal->heads, &wal->identity, error);
    return result;
}

/* EINVAL for a directory that is no log yet where the caller names no shard. Looked at before the lock is made: a
 * refusal leaves nothing behind. */
static int check_shards_wanted(const struct opening *opening, tidemark_error *error) {
    const struct tidemark_log *log = &opening->wal->log;
    struct tidemark_segment *segments;
    struct stat status;
    size_t count;
    if (opening->options->shard_count > 0) return 0;
    if (log->io->fstatat(log->directory, "heads", &status, AT_SYMLINK_NOFOLLOW) == 0) return 0;
    if (errno != ENOENT) return tidemark_io_fail(error, log->path, "/heads", "cannot read its status");
    int result = tidemark_segment_list(log->io, log->directory, log->path, -1, &segments, &count, error);
    if (result < 0) return result;
    tidemark_free(segments);
    if (count > 0) return 0;
    return tidemark_fail(error, TIDEMARK_EINVAL, "%s: a new log needs at least one shard", log->path);
}

/* Opens the heads, making those of a new log. Where there are no heads that can be read, although there are segments or
 * a damaged file, wal->heads stays NULL. */
static int open_heads(struct opening *opening, tidemark_error *error) {
    struct tidemark_wal *wal = opening->wal;
    struct stat status;
    int result = 0;
    opening->has_heads = wal->log.io->fstatat(wal->log.directory, "heads", &status, AT_SYMLINK_NOFOLLOW) == 0;
    if (!opening->has_heads && errno != ENOENT)
        return tidemark_io_fail(error, wal->log.path, "/heads", "cannot read its status");
    if (!opening->has_heads && opening->count > 0) return 0;
    if (!opening->has_heads) result = sync_name(wal, error);
    /* heads that an earlier writer may still have open are only read: they will be replaced */
    unsigned flags = !opening->has_heads ? 0 : wal->log.is_settled ? TIDEMARK_OPEN_EXISTING : TIDEMARK_OPEN_READONLY;
    if (result == 0) result = attach_heads(wal, flags, error);
    /* a writer names the log in its heads before it makes the first segment */
    bool is_nameless = result == 0 && wal->identity.log_id == 0;
    bool has_shards = opening->count > 0 || opening->options->shard_count > 0;
    if (!(result == TIDEMARK_ECORRUPT && has_shards) && !(is_nameless && opening->count > 0)) return result;
    tidemark_state_release(wal->heads);
    wal->heads = NULL;
    wal->identity = (struct tidemark_log_identity){0};
    return 0;
}

/* Finds the shards of the log: those that the heads or segments know, and those asked for. */
static int gather_shards(struct opening *opening, tidemark_error *error) {
    struct tidemark_wal *wal = opening->wal;
    bool *there = tidemark_calloc(TIDEMARK_SHARD_MAX + 1, sizeof *there);
    if (there == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", wal->log.path);
    for (size_t i = 0; i < opening->options->shard_count; i++) there[opening->options->shards[i]] = true;
    for (size_t i = 0; i < opening->count; i++) there[opening->segments[i].shard] = true;
    for (int id = -1; wal->heads != NULL && (id = tidemark_state_next(wal->heads, id)) >= 0;) there[id] = true;
    size_t wanted = 0;
    for (uint32_t id = 0; id <= TIDEMARK_SHARD_MAX; id++) wanted += there[id];
    int result = 0;
    wal->shards = tidemark_calloc(wanted + 1, sizeof *wal->shards);
    opening->repairs = tidemark_calloc(wanted + 1, sizeof *opening->repairs);
    if (wal->shards == NULL || opening->repairs == NULL)
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

/* Sets all heads, and makes them durable with the identity of the log. */
static int publish(struct tidemark_wal *wal, tidemark_error *error) {
    int result = track_shards(wal, error);
    if (result < 0) return result;
    tidemark_state_wake_always(wal->heads); /* readers open them to read only */
    for (size_t i = 0; i < wal->shard_count; i++)
        (void)tidemark_state_advance(wal->heads, wal->shards[i].id, wal->shards[i].last_seqno);
    return tidemark_log_write_identity(wal->heads, &wal->identity, error);
}

/* ---- a loss, and its acceptance ---- */

/* Whether the caller repeats the seqno at which the shard ends. */
static bool is_accepted(const struct opening *opening, size_t position) {
    const struct tidemark_wal_shard *shard = &opening->wal->shards[position];
    for (size_t i = 0; i < opening->options->accept_loss_count; i++) {
        const tidemark_mark *mark = &opening->options->accept_loss[i];
        if (mark->shard == shard->id && mark->seqno == shard->last_seqno) return true;
    }
    return false;
}

/* ELOST. The message lists where each shard ends, as far as there is room; the caller learns of the others once it has
 * accepted these. */
static int fail_lost(const struct opening *opening, size_t first, tidemark_error *error) {
    const struct tidemark_wal *wal = opening->wal;
    const struct tidemark_repair *repair = &opening->repairs[first];
    char list[160] = "", why[160];
    size_t length = 0, lost = 0, listed = 0, path_length = strlen(wal->log.path);
    bool is_long = path_length > PATH_MOST; /* the message must have room for the numbers */
    for (size_t i = first; i < wal->shard_count; i++) {
        if (!opening->repairs[i].lost || is_accepted(opening, i)) continue;
        lost++;
        if (length + 32 > sizeof list) continue;
        length += (size_t)snprintf(list + length, sizeof list - length, " %" PRIu32 ":%" PRId64, wal->shards[i].id,
                                   wal->shards[i].last_seqno);
        listed++;
    }
    if (wal->heads == NULL)
        (void)snprintf(why, sizeof why, "%s, so nobody knows whether records are missing",
                       opening->has_heads ? "the file heads is damaged" : "there is no file heads");
    else
        (void)snprintf(why, sizeof why,
                       "shard %" PRIu32 " ends at seqno %" PRId64 ", but %" PRId64 " had been durable%s%s",
                       wal->shards[first].id, wal->shards[first].last_seqno, repair->head,
                       *repair->where != '\0' ? ": " : ", and there is no segment", repair->where);
    return tidemark_fail(error, TIDEMARK_ELOST,
                         "%s%s: %s. The log now ends at%s%s (SHARD:SEQNO). Restore the rest from a copy, if there "
                         "is one. To go on without it, accept the loss",
                         is_long ? "..." : "", wal->log.path + (is_long ? path_length - PATH_MOST : 0), why, list,
                         listed < lost ? " ..." : "");
}

/* Removes what an earlier attempt has left of a state file in the directory of the log. */
static int remove_aside(const struct tidemark_log *log, tidemark_error *error) {
    static const char *const names[] = {"heads.aside", "heads.aside.live"};
    for (size_t i = 0; i < 2; i++) {
        if (log->io->unlinkat(log->directory, names[i], 0) < 0 && errno != ENOENT)
            return tidemark_fail(error, TIDEMARK_EIO, "%s/%s: cannot remove it: %s", log->path, names[i],
                                 strerror(errno));
    }
    return 0;
}

/* Writes heads for the log as it is now, with a file id of their own, to the file heads.aside, durably. */
static int make_aside(const struct tidemark_wal *wal, tidemark_error *error) {
    size_t length = strlen(wal->log.heads_path);
    char *path = tidemark_malloc(length + sizeof ".aside");
    uint32_t *ids = tidemark_malloc(wal->shard_count * sizeof *ids);
    tidemark_state *aside = NULL;
    int result = 0;
    if (path == NULL || ids == NULL) {
        result = tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", wal->log.path);
    } else {
        memcpy(path, wal->log.heads_path, length);
        memcpy(path + length, ".aside", sizeof ".aside");
        for (size_t i = 0; i < wal->shard_count; i++) ids[i] = wal->shards[i].id;
        result = tidemark_state_open_io(wal->log.io, path, ids, wal->shard_count, 0, &aside, error);
    }
    for (size_t i = 0; result == 0 && i < wal->shard_count; i++)
        (void)tidemark_state_advance(aside, wal->shards[i].id, wal->shards[i].last_seqno);
    if (result == 0) result = tidemark_log_write_identity(aside, &wal->identity, error);
    tidemark_state_release(aside);
    tidemark_free(path);
    tidemark_free(ids);
    return result;
}

/* Returns whether two names are those of one file: an attempt with the same explicit epoch was cut off. */
static bool is_same_file(const struct tidemark_log *log, const char *name, const char *other) {
    struct stat first, second;
    return log->io->fstatat(log->directory, name, &first, AT_SYMLINK_NOFOLLOW) == 0 &&
           log->io->fstatat(log->directory, other, &second, AT_SYMLINK_NOFOLLOW) == 0 &&
           tidemark_io_is_same(&first, &second);
}

/* Keeps the heads that are to be replaced by lower ones under another name. */
static int keep_heads(struct opening *opening, tidemark_error *error) {
    struct tidemark_wal *wal = opening->wal;
    int directory = wal->log.directory;
    char kept[48];
    (void)snprintf(kept, sizeof kept, "heads.lost-%016" PRIx64, wal->identity.epoch);
    if (wal->log.io->linkat(directory, "heads", directory, kept, 0) < 0 &&
        !(errno == EEXIST && is_same_file(&wal->log, "heads", kept)))
        return tidemark_io_fail(error, wal->log.path, "/heads", "cannot keep the old ones");
    return tidemark_wal_tell(wal, error, "kept the old heads as %s/%s", wal->log.path, kept);
}

/* Puts other heads in place: their marks may be lower, if a loss was accepted, or an earlier writer may still have the
 * old ones. At any moment the old heads or the new ones are there, whole: a reader that finds the new ones begins
 * again, and sees nothing more of the old ones' history until then. */
static int replace_heads(struct tidemark_wal *wal, tidemark_error *error) {
    const struct tidemark_io *io = wal->log.io;
    int directory = wal->log.directory, result = remove_aside(&wal->log, error);
    tidemark_state_release(wal->heads);
    wal->heads = NULL;
    if (result == 0) result = make_aside(wal, error);
    if (result < 0) return result;
    if (io->renameat(directory, "heads.aside", directory, "heads") < 0)
        return tidemark_io_fail(error, wal->log.path, "/heads", "cannot replace it");
    if (io->fsync(directory) < 0) return tidemark_io_fail(error, wal->log.path, "", "cannot sync it");
    if (io->unlinkat(directory, "heads.live", 0) < 0 && errno != ENOENT)
        return tidemark_io_fail(error, wal->log.path, "/heads.live", "cannot remove it");
    result = remove_aside(&wal->log, error);
    if (result == 0) result = attach_heads(wal, TIDEMARK_OPEN_EXISTING, error);
    return result;
}

/* Returns 1 if a loss was accepted, 0 if there is none. ELOST. */
static int judge_loss(const struct opening *opening, tidemark_error *error) {
    struct tidemark_wal *wal = opening->wal;
    int accepted = wal->heads == NULL;
    for (size_t i = 0; i < wal->shard_count; i++) {
        const struct tidemark_repair *repair = &opening->repairs[i];
        if (!repair->lost) continue;
        if (!is_accepted(opening, i)) return fail_lost(opening, i, error);
        accepted = 1;
        int result = tidemark_wal_tell(wal, error,
                                       "shard %" PRIu32 ": continues after seqno %" PRId64 "; later records are lost",
                                       wal->shards[i].id, wal->shards[i].last_seqno);
        if (result < 0) return result;
    }
    return accepted;
}

/* ---- identity ---- */

static int begin_epoch(struct tidemark_wal *wal, uint64_t wanted, tidemark_error *error) {
    char text[TIDEMARK_EPOCH_TEXT], last[TIDEMARK_EPOCH_TEXT];
    uint64_t epoch = wanted;
    if (wanted == 0 && tidemark_epoch_make(wal->log.io, wal->identity.epoch, &epoch) < 0)
        return errno == ERANGE ? tidemark_fail(error, TIDEMARK_EFENCED, "%s: no epoch is left above the last one, %s",
                                               wal->log.path, tidemark_epoch_text(wal->identity.epoch, last))
                               : tidemark_io_fail(error, wal->log.path, "", "no random numbers for its epoch");
    if (epoch <= wal->identity.epoch)
        return tidemark_fail(error, TIDEMARK_EFENCED,
                             "%s: epoch %s is not above the last one, %s: leave the epoch out, or give a higher one",
                             wal->log.path, tidemark_epoch_text(epoch, text),
                             tidemark_epoch_text(wal->identity.epoch, last));
    wal->identity.epoch = epoch;
    if (wal->identity.own_epoch == 0) wal->identity.own_epoch = epoch;
    return 0;
}

static int new_log_id(struct tidemark_wal *wal, tidemark_error *error) {
    unsigned char id[16];
    while (wal->identity.log_id == 0) {
        if (wal->log.io->random_id(id) < 0)
            return tidemark_io_fail(error, wal->log.path, "", "no random numbers for its id");
        wal->identity.log_id = tidemark_get32(id);
    }
    return 0;
}

/* ---- opening ---- */

/* Reads, decides, repairs, publishes: in this order. */
static int open_locked(struct opening *opening, tidemark_error *error) {
    struct tidemark_wal *wal = opening->wal;
    int result = check_shards_wanted(opening, error);
    if (result == 0) result = tidemark_log_lock(&wal->log, error);
    if (result == 0)
        result = tidemark_segment_list(wal->log.io, wal->log.directory, wal->log.path, -1, &opening->segments,
                                       &opening->count, error);
    if (result == 0) result = open_heads(opening, error);
    if (result == 0) result = gather_shards(opening, error);
    if (result == 0) result = tidemark_wal_read_shards(wal, opening->segments, opening->count, opening->repairs, error);
    int loss = result == 0 ? judge_loss(opening, error) : result;
    if (loss < 0) return loss;
    result = begin_epoch(wal, opening->options->epoch, error);
    if (result == 0) result = new_log_id(wal, error);
    bool is_settled = wal->log.is_settled || !(opening->has_heads || opening->count > 0); /* or a new log */
    if (result == 0) result = tidemark_wal_repair_shards(wal, opening->repairs, error);
    if (result == 0 && loss > 0 && opening->has_heads) result = keep_heads(opening, error);
    if (result == 0 && (loss > 0 || !is_settled)) result = replace_heads(wal, error);
    if (result == 0) result = tidemark_log_settle(&wal->log, error);
    if (result < 0) return result;
    assert(wal->heads != NULL && wal->identity.epoch > 0 && wal->identity.log_id != 0);
    return publish(wal, error);
}

static int check_options(const tidemark_wal_options *options, const char *directory, tidemark_error *error) {
    if (options->segment_bytes > INT64_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "%s: segment_bytes out of range", directory);
    if (options->epoch > TIDEMARK_EPOCH_EXPLICIT_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "%s: epoch out of range: %" PRIu64 ", at most %" PRId64, directory,
                             options->epoch, TIDEMARK_EPOCH_EXPLICIT_MAX);
    for (size_t i = 0; i < options->shard_count; i++) {
        if (options->shards[i] > TIDEMARK_SHARD_MAX)
            return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, options->shards[i]);
    }
    return 0;
}

static int new_wal(const struct tidemark_io *io, const char *directory, const tidemark_wal_options *options,
                   struct tidemark_wal **result, tidemark_error *error) {
    struct tidemark_wal *wal = tidemark_calloc(1, sizeof *wal);
    if (wal == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", directory);
    wal->process = getpid();
    wal->recovery_end = &wal->recovery;
    wal->segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : SEGMENT_BYTES;
    wal->sync_later = options->unsynced != 0;
    int code = tidemark_log_open(io, directory, &wal->log, error);
    if (code == 0) *result = wal;
    else tidemark_free(wal);
    return code;
}

int tidemark_wal_open_io(const struct tidemark_io *io, const char *directory, const tidemark_wal_options *options,
                         tidemark_wal **result, tidemark_error *error) {
    static const tidemark_wal_options none;
    tidemark_error why; /* recovery reads messages, also if it goes on */
    struct opening opening = {.options = options != NULL ? options : &none};
    int code = check_options(opening.options, directory, error);
    if (code < 0) return code;
    if (opening.options->shard_count > 0 && io->mkdirat(AT_FDCWD, directory, 0700) < 0 && errno != EEXIST)
        return tidemark_io_fail(error, directory, "", "cannot make the directory");
    code = new_wal(io, directory, opening.options, &opening.wal, error);
    if (code < 0) return code;
    code = open_locked(&opening, &why);
    tidemark_free(opening.segments);
    tidemark_free(opening.repairs);
    if (code == 0) {
        *result = opening.wal;
        return 0;
    }
    tidemark_wal_free(opening.wal);
    return tidemark_fail(error, code, "%s", why.message);
}

int tidemark_wal_open(const char *directory, const tidemark_wal_options *options, tidemark_wal **wal,
                      tidemark_error *error) {
    return tidemark_wal_open_io(&tidemark_io_system, directory, options, wal, error);
}
