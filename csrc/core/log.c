/* The directory of a log: opening and locking it, and its identity (log id and epochs, in a note of its heads). */
#define _XOPEN_SOURCE 700 /* O_DIRECTORY, O_NOFOLLOW, O_CLOEXEC */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "error.h"
#include "segment.h"
#include "wal.h"

#define LOCK_NAME "lock"

/* ---- opening ---- */

/* Joins the strings of the log into one allocation: NULL where there is no memory. `working` is the working directory,
 * "" for an absolute path. */
static bool set_paths(struct tidemark_log *log, const char *path, const char *working) {
    size_t path_size = strlen(path) + 1, place_size = strlen(working) + 1 + path_size;
    char *at = tidemark_malloc(path_size + 2 * place_size + sizeof "/heads");
    if (at == NULL) return false;
    log->path = at;
    log->place = log->path + path_size;
    log->heads_path = log->place + place_size;
    memcpy(log->path, path, path_size);
    (void)snprintf(log->place, place_size, "%s%s%s", working, *working != '\0' ? "/" : "", path);
    (void)snprintf(log->heads_path, place_size + sizeof "/heads", "%s/heads", log->place);
    return true;
}

int tidemark_log_open(const struct tidemark_io *io, const char *path, struct tidemark_log *log, tidemark_error *error) {
    char working[PATH_MAX] = "";
    if (*path != '/' && getcwd(working, sizeof working) == NULL)
        return tidemark_io_fail(error, path, "", "cannot find the working directory");
    int fd = io->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) {
        int code = errno == ENOENT ? TIDEMARK_ENOT_FOUND : TIDEMARK_EIO;
        return tidemark_fail(error, code, "%s: cannot open it: %s", path, strerror(errno));
    }
    *log = (struct tidemark_log){.io = io, .directory = fd, .lock = -1};
    if (set_paths(log, path, working)) return 0;
    (void)io->close(fd);
    return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", path);
}

void tidemark_log_close(struct tidemark_log *log) {
    if (log->lock >= 0) (void)log->io->close(log->lock);
    (void)log->io->close(log->directory);
    tidemark_free(log->path);
}

/* ---- locking ---- */

/* Reads whether the log is settled. If `lock` was removed or replaced, a writer that has locked the old one may still
 * be there: then the file does not have its own inode number in it. */
static int read_settled(struct tidemark_log *log, int fd, const struct stat *status, tidemark_error *error) {
    unsigned char number[8];
    int result = tidemark_io_read(log->io, fd, number, sizeof number, 0);
    if (result < 0 && errno != ENODATA) return tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot read it");
    log->is_settled = result == 0 && tidemark_get64(number) == (uint64_t)status->st_ino;
    return 0;
}

int tidemark_log_lock(struct tidemark_log *log, tidemark_error *error) {
    struct stat status;
    int result = 0, flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    assert(log->lock < 0);
    int fd = log->io->openat(log->directory, LOCK_NAME, flags, 0600);
    if (fd < 0) return tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot open it");
    if (log->io->fstat(fd, &status) < 0)
        result = tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot read its status");
    else if (!S_ISREG(status.st_mode))
        result = tidemark_fail(error, TIDEMARK_EDENIED, "%s/" LOCK_NAME ": is not a plain file", log->path);
    else if (tidemark_io_lock(log->io, fd, F_WRLCK, 0, false) < 0)
        result = errno == EAGAIN || errno == EACCES
                     ? tidemark_fail(error, TIDEMARK_ELOCKED, "%s: another writer has this log open", log->path)
                     : tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot lock it");
    if (result == 0) result = read_settled(log, fd, &status, error);
    if (result == 0) log->lock = fd;
    else (void)log->io->close(fd);
    return result;
}

int tidemark_log_settle(struct tidemark_log *log, tidemark_error *error) {
    unsigned char number[8];
    struct stat status;
    if (log->is_settled) return 0;
    if (log->io->fstat(log->lock, &status) < 0)
        return tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot read its status");
    tidemark_put64(number, (uint64_t)status.st_ino);
    if (tidemark_io_write(log->io, log->lock, number, sizeof number, 0) < 0)
        return tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot write it");
    log->is_settled = true;
    return 0;
}

int tidemark_log_is_locked(const struct tidemark_log *log, tidemark_error *error) {
    struct stat ours, there;
    if (log->io->fstat(log->lock, &ours) < 0)
        return tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot read its status");
    if (log->io->fstatat(log->directory, LOCK_NAME, &there, AT_SYMLINK_NOFOLLOW) == 0)
        return tidemark_io_is_same(&ours, &there);
    return errno == ENOENT ? 0 : tidemark_io_fail(error, log->path, "/" LOCK_NAME, "cannot read its status");
}

bool tidemark_log_is_replaced(const struct tidemark_log *log) {
    struct stat ours, there;
    return log->io->fstatat(AT_FDCWD, log->place, &there, 0) == 0 && log->io->fstat(log->directory, &ours) == 0 &&
           !tidemark_io_is_same(&ours, &there);
}

/* ---- identity ---- */

#define NOTE_SIZE    36 /* bytes */
#define NOTE_VERSION 2

static const char note_magic[4] = {'T', 'M', 'L', 'G'};

/* Returns 0, or fails with what is wrong with the note of `shard`. */
static int decode_note(const struct tidemark_log *log, int shard, const unsigned char *note, int length,
                       struct tidemark_log_identity *identity, tidemark_error *error) {
    bool has_magic = length > 4 && memcmp(note, note_magic, sizeof note_magic) == 0;
    int version = has_magic ? note[4] : length == 12 ? 1 : 0; /* version 1 had no magic: log id and epoch alone */
    if (version != 0 && version != NOTE_VERSION)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED,
                             "%s/heads: shard %d: the note of the log has version %d, this tidemark reads version %d",
                             log->path, shard, version, NOTE_VERSION);
    if (version == NOTE_VERSION && length == NOTE_SIZE) {
        if (note[5] != 0)
            return tidemark_fail(error, TIDEMARK_EUNSUPPORTED,
                                 "%s/heads: shard %d: the log has a router of kind %d, this tidemark knows none",
                                 log->path, shard, note[5]);
        *identity = (struct tidemark_log_identity){
            .log_id = tidemark_get32(note + 8),
            .epoch = tidemark_get64(note + 16),
            .own_epoch = tidemark_get64(note + 24),
        };
        if (identity->log_id != 0 && identity->epoch != 0 && identity->epoch <= TIDEMARK_EPOCH_MAX &&
            identity->own_epoch <= identity->epoch)
            return 0;
    }
    return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s/heads: shard %d: its note is not that of a log", log->path,
                         shard);
}

int tidemark_log_read_identity(const struct tidemark_log *log, tidemark_state *heads,
                               struct tidemark_log_identity *identity, tidemark_error *error) {
    unsigned char note[TIDEMARK_NOTE_MAX];
    *identity = (struct tidemark_log_identity){0};
    for (int shard = tidemark_state_next(heads, -1); shard >= 0; shard = tidemark_state_next(heads, shard)) {
        int length = tidemark_state_note(heads, (uint32_t)shard, (char *)note, error);
        if (length == TIDEMARK_ENOT_FOUND) continue; /* a shard that was added when its writer was cut off */
        return length < 0 ? length : decode_note(log, shard, note, length, identity, error);
    }
    return 0;
}

int tidemark_log_write_identity(tidemark_state *heads, const struct tidemark_log_identity *identity,
                                tidemark_error *error) {
    unsigned char bytes[NOTE_SIZE] = {0}; /* no router */
    memcpy(bytes, note_magic, sizeof note_magic);
    bytes[4] = NOTE_VERSION;
    tidemark_put32(bytes + 8, identity->log_id);
    tidemark_put64(bytes + 16, identity->epoch);
    tidemark_put64(bytes + 24, identity->own_epoch);
    tidemark_note note = {(uint32_t)tidemark_state_next(heads, -1), sizeof bytes, bytes};
    return tidemark_state_checkpoint(heads, &note, 1, error);
}

void tidemark_log_set_evidence(struct tidemark_scan *scan, const struct tidemark_log_identity *identity) {
    bool is_replica = identity != NULL && identity->log_id != 0 && identity->own_epoch == 0;
    bool is_known = identity != NULL && identity->own_epoch != 0;
    scan->first_epoch = is_replica ? UINT64_MAX : is_known ? identity->own_epoch : 1;
    scan->last_epoch = is_known ? identity->epoch : TIDEMARK_EPOCH_MAX;
}
