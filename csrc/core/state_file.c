/*
 * States backed by files: who may do what, and when. The bytes are checkpoint_file.c's (PATH) and live_file.c's
 * (PATH.live).
 *
 * Invariants (those of saving: state_save.c):
 *  - Marks in the live file are only ever advanced, by those who have applied. So they are never ahead of what is
 * applied; and they are at least the last checkpoint's.
 *  - Attaching and adding shards happen under the change lock, reading and writing slots under the save lock.
 */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_DIRECTORY */
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "error.h"
#include "state_save.h"
#include "wait.h"

static int lock(const struct tidemark_file *file, int fd, short type, off_t byte, bool wait) {
    return tidemark_io_lock(file->io, fd, type, byte, wait);
}

/* ---- opening and closing descriptors ---- */

/* Closing is all that releases a lock for life: an explicit unlock in a forked child would release its parent's. */
static void close_file(struct tidemark_file *file) {
    if (file->live != NULL) (void)file->io->munmap(file->live, sizeof *file->live);
    if (file->live_fd >= 0) (void)file->io->close(file->live_fd);
    if (file->fd >= 0) (void)file->io->close(file->fd);
    if (file->directory >= 0) (void)file->io->close(file->directory);
    (void)pthread_mutex_destroy(&file->mutex);
    tidemark_free(file->notes);
    tidemark_free(file);
}

static bool ends_in(const char *name, const char *suffix) {
    size_t length = strlen(name), suffix_length = strlen(suffix);
    return length >= suffix_length && strcmp(name + length - suffix_length, suffix) == 0;
}

/* A closed file of that path, its directory open. */
static int new_file(const struct tidemark_io *io, const char *path, bool readonly, struct tidemark_file **result,
                    tidemark_error *error) {
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    size_t length = strlen(path) + 1, name_length = strlen(name);
    if (name_length == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return tidemark_fail(error, TIDEMARK_EINVAL, "%s: the path of a state must end in a file name", path);
    if (ends_in(name, ".live") || ends_in(name, ".new"))
        return tidemark_fail(error, TIDEMARK_EINVAL,
                             "%s: names that end in .live and .new are for the files that belong to a state", path);
    struct tidemark_file *file =
        tidemark_calloc(1, sizeof *file + length + name_length + sizeof ".live" + name_length + sizeof ".new");
    if (file == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", path);
    file->io = io;
    file->fd = file->live_fd = file->directory = -1;
    file->process = getpid();
    file->readonly = readonly;
    (void)pthread_mutex_init(&file->mutex, NULL);
    char *at = memcpy(file->names, path, length);
    file->path = at;
    file->name = at + (name - path);
    file->live_name = at += length;
    memcpy(at, name, name_length);
    memcpy(at + name_length, ".live", sizeof ".live");
    file->new_name = at += name_length + sizeof ".live";
    memcpy(at, name, name_length);
    memcpy(at + name_length, ".new", sizeof ".new");

    /* the directory part of the path: up to the slash, "/" itself, or "." */
    char *end = file->names + (name - path);
    char first = *end;
    *end = '\0';
    file->directory = io->openat(AT_FDCWD, name == path ? "." : file->names, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    *end = first;
    if (file->directory < 0) {
        int code = errno == ENOENT ? TIDEMARK_ENOT_FOUND : TIDEMARK_EIO;
        tidemark_fail(error, code, "%s: cannot open its directory: %s", path, strerror(errno));
        close_file(file);
        return code;
    }
    *result = file;
    return 0;
}

/* Opens `name`, which must be a plain file of our own; "" or ".live" is the suffix for messages. ENOT_FOUND, EDENIED,
 * EIO. */
static int open_plain(const struct tidemark_file *file, const char *name, const char *suffix, int *result,
                      tidemark_error *error) {
    struct stat status;
    int fd = file->io->openat(file->directory, name,
                              (file->readonly ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0 && errno == ENOENT)
        return tidemark_fail(error, TIDEMARK_ENOT_FOUND, "%s%s: no such file", file->path, suffix);
    if (fd < 0 && errno == ELOOP)
        return tidemark_fail(error, TIDEMARK_EDENIED, "%s%s: is a symbolic link; name the file itself", file->path,
                             suffix);
    if (fd < 0 && (errno == EISDIR || errno == ENXIO)) /* ENXIO: a socket, or a device that is not there */
        return tidemark_fail(error, TIDEMARK_EDENIED, "%s%s: is not a plain file: %s", file->path, suffix,
                             strerror(errno));
    if (fd < 0 && errno == EACCES)
        return tidemark_fail(error, TIDEMARK_EDENIED, "%s%s: cannot open it: %s", file->path, suffix, strerror(errno));
    if (fd < 0) return tidemark_io_fail(error, file->path, suffix, "cannot open it");
    int code = 0;
    if (file->io->fstat(fd, &status) < 0) code = tidemark_io_fail(error, file->path, suffix, "cannot read its status");
    else if (!S_ISREG(status.st_mode))
        code = tidemark_fail(error, TIDEMARK_EDENIED, "%s%s: is not a plain file", file->path, suffix);
    else if (status.st_uid != geteuid())
        code = tidemark_fail(error, TIDEMARK_EDENIED,
                             "%s%s: belongs to user %lu, but user %lu has tried to open it: open it as user %lu",
                             file->path, suffix, (unsigned long)status.st_uid, (unsigned long)geteuid(),
                             (unsigned long)status.st_uid);
    if (code == 0) *result = fd;
    else (void)file->io->close(fd);
    return code;
}

int tidemark_file_is_current(const struct tidemark_file *file, const char *name, int fd, tidemark_error *error) {
    struct stat ours, there;
    if (file->io->fstat(fd, &ours) < 0) return tidemark_file_fail_io(file, "cannot read its status", error);
    if (file->io->fstatat(file->directory, name, &there, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : tidemark_file_fail_io(file, "cannot read its status", error);
    return tidemark_io_is_same(&ours, &there);
}

/* Opens PATH, making it if there is none and `create`, and takes the change lock on it. */
static int open_and_lock(struct tidemark_file *file, bool create, tidemark_error *error) {
    for (;;) {
        int result = open_plain(file, file->name, "", &file->fd, error);
        if (result == TIDEMARK_ENOT_FOUND && create) {
            result =
                tidemark_checkpoint_file_make(file->io, file->directory, file->name, file->new_name, file->path, error);
            if (result < 0) return result;
            continue;
        }
        if (result < 0) return result;
        if (lock(file, file->fd, F_WRLCK, LOCK_CHANGE, true) < 0)
            return tidemark_file_fail_io(file, "cannot lock it", error);
        result = tidemark_file_is_current(file, file->name, file->fd, error);
        if (result != 0) return result < 0 ? result : 0;
        /* it was replaced while we waited for the lock */
        (void)file->io->close(file->fd);
        file->fd = -1;
    }
}

/* ---- attaching ---- */

/* Takes the attach lock of `fd`, exclusively if nobody else has it: 1 if so, 0 if others are attached. EIO. */
static int lock_attach(const struct tidemark_file *file, int fd, tidemark_error *error) {
    if (lock(file, fd, F_WRLCK, LOCK_ATTACH, false) == 0) return 1;
    if ((errno == EAGAIN || errno == EACCES) && lock(file, fd, F_RDLCK, LOCK_ATTACH, false) == 0) return 0;
    return tidemark_file_fail_io(file, "cannot lock it", error);
}

/* Whether this process is the only one attached: 1, 0. Both files must give the same answer, else somebody holds files
 * that are no longer the ones on disk: EBUSY. Who detaches closes one file after the other, so a difference gets a
 * moment to pass: a second, lest a busy machine make a mistake of it. */
static int attach_locks(const struct tidemark_file *file, tidemark_error *error) {
    static const struct timespec pause = {0, 1000000};
    for (int attempt = 0; attempt < 1000; attempt++) {
        int alone = lock_attach(file, file->fd, error);
        int live_alone = file->live_fd >= 0 && alone >= 0 ? lock_attach(file, file->live_fd, error) : alone;
        if (alone < 0 || live_alone < 0) return alone < 0 ? alone : live_alone;
        if (alone == live_alone && (file->live_fd >= 0 || alone)) return alone;
        (void)nanosleep(&pause, NULL);
    }
    return tidemark_fail(
        error, TIDEMARK_EBUSY,
        "%s: another process holds this state open, but not with the files that are here now (one was deleted or "
        "replaced): end that process first",
        file->path);
}

/* Opens the live file and decides whether to trust it. 0: mapped; 1: there is none to trust. */
static int open_live(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint,
                     const struct tidemark_live_identity *identity, tidemark_error *error) {
    if (file->live_fd < 0) return 1;
    int result = tidemark_live_map(file->io, file->live_fd, file->path, identity, file->readonly, &file->live, error);
    if (result != 0) return result;
    if (checkpoint->generation == atomic_load(&file->live->saved_generation) ||
        checkpoint->generation == atomic_load(&file->live->saving_generation))
        return 0;
    (void)file->io->munmap(file->live, sizeof *file->live);
    file->live = NULL;
    return 1;
}

/* A new live file in place of one that cannot be trusted. A new inode: who still reads the old one keeps seeing what
 * was there. */
static int remake_live(struct tidemark_file *file, const struct tidemark_live_identity *identity,
                       tidemark_error *error) {
    if (file->live_fd >= 0) (void)file->io->close(file->live_fd);
    file->live_fd = -1;
    if (file->io->unlinkat(file->directory, file->live_name, 0) < 0 && errno != ENOENT)
        return tidemark_io_fail(error, file->path, ".live", "cannot remove the stale one");
    file->live_fd =
        file->io->openat(file->directory, file->live_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file->live_fd < 0) return tidemark_io_fail(error, file->path, ".live", "cannot make it");
    if (lock(file, file->live_fd, F_WRLCK, LOCK_ATTACH, false) < 0)
        return tidemark_io_fail(error, file->path, ".live", "cannot lock it");
    return tidemark_live_make(file->io, file->live_fd, file->path, identity, &file->live, error);
}

/* What the first one does who attaches: the marks become at least the checkpoint's, and the live header is set from it.
 * The generations come last: until then a new live file is not trusted. In a new one the generations go on from a
 * random number, for PATH may have been restored from an older copy: no generation that is written from now on shall
 * be one that another copy of it has. */
static int begin(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint, tidemark_error *error) {
    struct tidemark_live *live = file->live;
    unsigned char random[16] = {0};
    bool made = atomic_load(&live->saving_generation) < checkpoint->generation;
    if (made && checkpoint->generation > 1 && file->io->random_id(random) < 0)
        return tidemark_file_fail_io(file, "cannot get a random number", error);
    for (size_t i = 0; i < checkpoint->count; i++)
        (void)tidemark_slot_advance(&live->slots[checkpoint->marks[i].shard], checkpoint->marks[i].seqno);
    atomic_store(&live->unsynced, 1);
    atomic_store(&live->saved_slot, checkpoint->number);
    atomic_store(&live->prepared[checkpoint->number], checkpoint->block_size);
    atomic_store(&live->prepared[!checkpoint->number], 0);
    atomic_store(&live->poisoned, 0);
    atomic_store(&live->saved_generation, checkpoint->generation);
    if (made) atomic_store(&live->saving_generation, checkpoint->generation + tidemark_get32(random));
    return 0;
}

/* Adds what was asked for and, for the first one, what the checkpoint holds. */
static int add_shards(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint, const uint32_t *shards,
                      size_t count, tidemark_error *error) {
    uint64_t wanted[TIDEMARK_SHARDS / 64] = {0};
    for (size_t i = 0; i < count; i++) wanted[shards[i] / 64] |= (uint64_t)1 << shards[i] % 64;
    for (size_t i = 0; checkpoint != NULL && i < checkpoint->count; i++)
        wanted[checkpoint->marks[i].shard / 64] |= (uint64_t)1 << checkpoint->marks[i].shard % 64;
    return tidemark_live_add(file->io, file->live_fd, file->path, file->live, wanted, error);
}

int tidemark_file_new_live(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint,
                           tidemark_error *error) {
    struct tidemark_live_identity identity;
    memcpy(identity.id, file->id, sizeof identity.id);
    if (file->io->boot_id(identity.boot) < 0)
        return tidemark_file_fail_io(file, "cannot read the boot id of this machine", error);
    int result = remake_live(file, &identity, error);
    if (result == 0) result = add_shards(file, checkpoint, NULL, 0, error);
    return result == 0 ? begin(file, checkpoint, error) : result;
}

/* With PATH open and change and save locked. */
static int attach_locked(struct tidemark_file *file, const uint32_t *shards, size_t count, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    struct tidemark_live_identity identity;
    int result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, file->id, error);
    if (result < 0) return result;
    memcpy(identity.id, file->id, sizeof identity.id);
    if (file->io->boot_id(identity.boot) < 0)
        return tidemark_file_fail_io(file, "cannot read the boot id of this machine", error);
    result = open_plain(file, file->live_name, ".live", &file->live_fd, error);
    if (result < 0 && result != TIDEMARK_ENOT_FOUND) return result;
    int alone = attach_locks(file, error);
    if (alone < 0) return alone;
    result = tidemark_checkpoint_file_load(file->io, file->fd, file->path, file->id, &checkpoint, error);
    if (result < 0) return result;

    result = open_live(file, &checkpoint, &identity, error);
    if (result == 1 && alone) result = remake_live(file, &identity, error);
    else if (result == 1)
        result = tidemark_fail(
            error, TIDEMARK_EBUSY,
            "%s: other processes are attached to a live file that does not belong to it: end those processes first",
            file->path);
    if (result == 0) result = add_shards(file, alone ? &checkpoint : NULL, shards, count, error);
    if (result == 0 && alone) result = begin(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    return result;
}

static int attach(struct tidemark_file *file, const uint32_t *shards, size_t count, bool create,
                  tidemark_error *error) {
    int result = open_and_lock(file, create, error);
    if (result < 0) return result;
    if (lock(file, file->fd, F_WRLCK, LOCK_SAVE, true) < 0) return tidemark_file_fail_io(file, "cannot lock it", error);
    result = attach_locked(file, shards, count, error);
    if (result < 0) return result;
    if (lock(file, file->fd, F_RDLCK, LOCK_ATTACH, false) < 0 ||
        lock(file, file->live_fd, F_RDLCK, LOCK_ATTACH, false) < 0 ||
        lock(file, file->fd, F_UNLCK, LOCK_SAVE, false) < 0 || lock(file, file->fd, F_UNLCK, LOCK_CHANGE, false) < 0)
        return tidemark_file_fail_io(file, "cannot lock it", error);
    return 0;
}

/* ---- read-only ---- */

/* Puts a state in memory with the marks of the checkpoint in the place of `*state`. */
static int state_of_checkpoint(const struct tidemark_checkpoint *checkpoint, tidemark_state **state,
                               tidemark_error *error) {
    tidemark_state *made;
    uint32_t *shards = tidemark_malloc(checkpoint->count * sizeof *shards + 1);
    if (shards == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory for %zu shards", checkpoint->count);
    for (size_t i = 0; i < checkpoint->count; i++) shards[i] = checkpoint->marks[i].shard;
    int result = tidemark_state_new(shards, checkpoint->count, &made, error);
    tidemark_free(shards);
    if (result < 0) return result;
    (void)tidemark_state_advance_all(made, checkpoint->marks, checkpoint->count, NULL);
    tidemark_state_wake_always(made); /* nobody will advance it: there is nothing to look for */
    tidemark_state_release(*state);
    *state = made;
    return 0;
}

/* Follows the live file if there is one to trust (then `*state` stays as it is), else makes a state of the last
 * checkpoint. */
static int open_readonly(struct tidemark_file *file, tidemark_state **state, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    struct tidemark_live_identity identity;
    int result = open_plain(file, file->name, "", &file->fd, error);
    if (result < 0) return result;
    if (lock(file, file->fd, F_RDLCK, LOCK_SAVE, true) < 0) return tidemark_file_fail_io(file, "cannot lock it", error);
    result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, file->id, error);
    if (result < 0) return result;
    memcpy(identity.id, file->id, sizeof identity.id);
    if (file->io->boot_id(identity.boot) < 0)
        return tidemark_file_fail_io(file, "cannot read the boot id of this machine", error);
    result = open_plain(file, file->live_name, ".live", &file->live_fd, error);
    if (result < 0 && result != TIDEMARK_ENOT_FOUND) return result;
    result = tidemark_checkpoint_file_load(file->io, file->fd, file->path, file->id, &checkpoint, error);
    if (result < 0) return result;
    result = open_live(file, &checkpoint, &identity, error);
    if (result == 1) result = state_of_checkpoint(&checkpoint, state, error);
    if (result == 0) result = tidemark_file_copy_notes(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    if (result == 0 && lock(file, file->fd, F_UNLCK, LOCK_SAVE, false) < 0)
        result = tidemark_file_fail_io(file, "cannot lock it", error);
    return result;
}

/* ---- open ---- */

int tidemark_state_open_io(const struct tidemark_io *io, const char *path, const uint32_t *shards, size_t count,
                           unsigned flags, tidemark_state **result, tidemark_error *error) {
    bool readonly = flags & TIDEMARK_OPEN_READONLY;
    struct tidemark_file *file = NULL;
    for (size_t i = 0; i < count; i++) {
        if (shards[i] > TIDEMARK_SHARD_MAX) return tidemark_fail_shard(error, shards[i]);
    }
    int code = new_file(io, path, readonly, &file, error);
    if (code < 0) return code;
    tidemark_state *state = tidemark_state_allocate(TIDEMARK_SHARDS / 8);
    if (state == NULL) code = tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", path);
    else if (readonly) code = open_readonly(file, &state, error);
    else code = attach(file, shards, count, !(flags & TIDEMARK_OPEN_EXISTING), error);
    if (code < 0) {
        tidemark_state_release(state);
        close_file(file);
        return code;
    }
    if (file->live != NULL) {
        state->slots = file->live->slots;
        state->present = file->live->present;
        state->followed = (void *)(state + 1);
        state->event = &file->live->event;
    }
    state->readonly = readonly;
    state->file = file;
    state->close_file = close_file;
    *result = state;
    return 0;
}

int tidemark_state_open(const char *path, const uint32_t *shards, size_t count, unsigned flags, tidemark_state **state,
                        tidemark_error *error) {
    return tidemark_state_open_io(&tidemark_io_system, path, shards, count, flags, state, error);
}

/* ---- asking ---- */

int tidemark_state_is_current(const tidemark_state *state, tidemark_error *error) {
    const struct tidemark_file *file = state->file;
    if (file == NULL) return 1;
    if (file->live == NULL) return 0;
    int current = tidemark_file_is_current(file, file->name, file->fd, error);
    return current == 1 ? tidemark_file_is_current(file, file->live_name, file->live_fd, error) : current;
}

uint64_t tidemark_state_generation(const tidemark_state *state) {
    return state->file->live != NULL ? atomic_load(&state->file->live->saved_generation) : 0;
}

void tidemark_state_file_id(const tidemark_state *state, unsigned char id[16]) {
    memcpy(id, state->file->id, sizeof state->file->id);
}

/* ---- one follower per shard ---- */

/* The bit keeps apart those who share this object, whose descriptor could take the byte lock twice; the byte lock keeps
 * the objects apart. The bit is set first and cleared last, so the byte lock is only touched by who has the bit. */

static void clear_followed(tidemark_state *state, uint32_t shard) {
    atomic_fetch_and(&state->followed[shard / 64], ~((uint64_t)1 << shard % 64));
}

int tidemark_state_lock_shard(tidemark_state *state, uint32_t shard, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    uint64_t bit = (uint64_t)1 << shard % 64;
    if (tidemark_state_slot(state, shard) == NULL) return tidemark_fail_shard(error, shard);
    if (state->readonly)
        return tidemark_fail(error, TIDEMARK_EREADONLY, "%s: the state was opened to read", file->path);
    int result = file != NULL ? tidemark_file_check_process(file, error) : 0;
    if (result < 0) return result;
    if (atomic_fetch_or(&state->followed[shard / 64], bit) & bit)
        return tidemark_fail(error, TIDEMARK_ELOCKED, "shard %" PRIu32 " has a follower in this process", shard);
    if (file == NULL || lock(file, file->fd, F_WRLCK, LOCK_SHARD + (off_t)shard, false) == 0) return 0;
    if (errno == EAGAIN || errno == EACCES)
        result =
            tidemark_fail(error, TIDEMARK_ELOCKED, "%s: shard %" PRIu32 " has another follower", file->path, shard);
    else result = tidemark_file_fail_io(file, "cannot lock a shard", error);
    clear_followed(state, shard);
    return result;
}

void tidemark_state_unlock_shard(tidemark_state *state, uint32_t shard) {
    struct tidemark_file *file = state->file;
    if (tidemark_state_slot(state, shard) == NULL || state->readonly) return;
    if (file != NULL && tidemark_file_check_process(file, NULL) < 0) return; /* the lock is the parent's */
    if (file != NULL) (void)lock(file, file->fd, F_UNLCK, LOCK_SHARD + (off_t)shard, false);
    clear_followed(state, shard);
}
