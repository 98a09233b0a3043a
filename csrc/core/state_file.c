/*
 * States backed by files: who may do what, and when. The bytes are checkpoint_file.c's (PATH) and live_file.c's
 * (PATH.live).
 *
 * Invariants:
 *  - The slot that live->saved_slot names has been synced with its present bytes (unless live->unsynced is set: then it
 * was loaded, and the first save syncs it, or the generations differ: then a save was cut short, and the next one
 * does). A save writes the other slot and only afterwards, when that is synced, says so in the live header. So between
 * any two system calls one slot holds the last acknowledged checkpoint, whatever becomes of the other.
 *  - live->saving_generation is set before a slot of that generation is written. So PATH's generation is one of the two
 * in the live header, or PATH is not the file that the live file belongs to.
 *  - Marks in the live file are only ever advanced, by those who have applied. So they are never ahead of what is
 * applied; and they are at least the last checkpoint's.
 *  - Attaching and adding shards happen under the change lock, reading and writing slots under the save lock.
 */
#define _XOPEN_SOURCE 700 /* pthread, O_NOFOLLOW, O_DIRECTORY */
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "alloc.h"
#include "checkpoint_file.h"
#include "error.h"
#include "live_file.h"
#include "notes.h"
#include "wait.h"

/* Locks: docs/formats.md. */
#define LOCK_ATTACH ((off_t)1 << 62)
#define LOCK_CHANGE (LOCK_ATTACH + 1)
#define LOCK_SAVE   (LOCK_ATTACH + 2)
#define LOCK_WRITER (LOCK_ATTACH + 3)
#define LOCK_SHARD  (LOCK_ATTACH + TIDEMARK_SHARDS) /* + shard */

struct tidemark_file {
    const struct tidemark_io *io;
    int directory, fd, live_fd; /* -1: not open; fd is PATH */
    struct tidemark_live *live; /* NULL: a read-only state without a live file to trust */
    unsigned char id[16];
    pid_t process; /* who opened it: locks belong to descriptors, which a forked child shares */
    bool readonly;
    pthread_mutex_t mutex; /* savers and readers of notes among the threads of this process; guards what follows */
    unsigned char *notes;  /* of the checkpoint of notes_generation */
    size_t notes_size;
    uint64_t notes_generation;               /* 0: not read yet */
    const char *path;                        /* for messages */
    const char *name, *live_name, *new_name; /* in `directory` */
    char names[];
};

static int lock(const struct tidemark_file *file, int fd, short type, off_t byte, bool wait) {
    return tidemark_io_lock(file->io, fd, type, byte, wait);
}

static int fail_io(const struct tidemark_file *file, const char *what, tidemark_error *error) {
    return tidemark_io_fail(error, file->path, "", what);
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
        code = tidemark_fail(error, TIDEMARK_EDENIED, "%s%s: belongs to user %lu, not to %lu who opens it", file->path,
                             suffix, (unsigned long)status.st_uid, (unsigned long)geteuid());
    if (code == 0) *result = fd;
    else (void)file->io->close(fd);
    return code;
}

/* Whether `name` is still the file that is open as `fd`: 1, 0, or EIO. */
static int is_current(const struct tidemark_file *file, const char *name, int fd, tidemark_error *error) {
    struct stat ours, there;
    if (file->io->fstat(fd, &ours) < 0) return fail_io(file, "cannot read its status", error);
    if (file->io->fstatat(file->directory, name, &there, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fail_io(file, "cannot read its status", error);
    return ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
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
        if (lock(file, file->fd, F_WRLCK, LOCK_CHANGE, true) < 0) return fail_io(file, "cannot lock it", error);
        result = is_current(file, file->name, file->fd, error);
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
    return fail_io(file, "cannot lock it", error);
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
        return fail_io(file, "cannot get a random number", error);
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

/* With PATH open and change and save locked. */
static int attach_locked(struct tidemark_file *file, const uint32_t *shards, size_t count, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    struct tidemark_live_identity identity;
    int result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, file->id, error);
    if (result < 0) return result;
    memcpy(identity.id, file->id, sizeof identity.id);
    if (file->io->boot_id(identity.boot) < 0) return fail_io(file, "cannot read the boot id of this machine", error);
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
            "%s: other processes are attached to a live file that does not belong to it: end them first", file->path);
    if (result == 0) result = add_shards(file, alone ? &checkpoint : NULL, shards, count, error);
    if (result == 0 && alone) result = begin(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    return result;
}

static int attach(struct tidemark_file *file, const uint32_t *shards, size_t count, bool create,
                  tidemark_error *error) {
    int result = open_and_lock(file, create, error);
    if (result < 0) return result;
    if (lock(file, file->fd, F_WRLCK, LOCK_SAVE, true) < 0) return fail_io(file, "cannot lock it", error);
    result = attach_locked(file, shards, count, error);
    if (result < 0) return result;
    if (lock(file, file->fd, F_RDLCK, LOCK_ATTACH, false) < 0 ||
        lock(file, file->live_fd, F_RDLCK, LOCK_ATTACH, false) < 0 ||
        lock(file, file->fd, F_UNLCK, LOCK_SAVE, false) < 0 || lock(file, file->fd, F_UNLCK, LOCK_CHANGE, false) < 0)
        return fail_io(file, "cannot lock it", error);
    return 0;
}

/* ---- read-only ---- */

static void keep_notes(struct tidemark_file *file, unsigned char *notes, size_t size, uint64_t generation) {
    tidemark_free(file->notes);
    file->notes = notes;
    file->notes_size = size;
    file->notes_generation = generation;
}

static int copy_notes(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint, tidemark_error *error) {
    unsigned char *copy;
    size_t size;
    if (!tidemark_notes_merge(checkpoint->notes, checkpoint->notes_size, NULL, 0, &copy, &size))
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for its notes", file->path);
    keep_notes(file, copy, size, checkpoint->generation);
    return 0;
}

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
    if (lock(file, file->fd, F_RDLCK, LOCK_SAVE, true) < 0) return fail_io(file, "cannot lock it", error);
    result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, file->id, error);
    if (result < 0) return result;
    memcpy(identity.id, file->id, sizeof identity.id);
    if (file->io->boot_id(identity.boot) < 0) return fail_io(file, "cannot read the boot id of this machine", error);
    result = open_plain(file, file->live_name, ".live", &file->live_fd, error);
    if (result < 0 && result != TIDEMARK_ENOT_FOUND) return result;
    result = tidemark_checkpoint_file_load(file->io, file->fd, file->path, file->id, &checkpoint, error);
    if (result < 0) return result;
    result = open_live(file, &checkpoint, &identity, error);
    if (result == 1) result = state_of_checkpoint(&checkpoint, state, error);
    if (result == 0) result = copy_notes(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    if (result == 0 && lock(file, file->fd, F_UNLCK, LOCK_SAVE, false) < 0)
        result = fail_io(file, "cannot lock it", error);
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

/* ---- asking, and the lock of a log's writer ---- */

int tidemark_state_is_current(const tidemark_state *state, tidemark_error *error) {
    const struct tidemark_file *file = state->file;
    if (file == NULL) return 1;
    if (file->live == NULL) return 0;
    int current = is_current(file, file->name, file->fd, error);
    return current == 1 ? is_current(file, file->live_name, file->live_fd, error) : current;
}

int tidemark_state_lock_writer(const tidemark_state *state, tidemark_error *error) {
    const struct tidemark_file *file = state->file;
    if (lock(file, file->fd, F_WRLCK, LOCK_WRITER, false) == 0) return 0;
    if (errno != EAGAIN && errno != EACCES) return fail_io(file, "cannot lock it", error);
    return tidemark_fail(error, TIDEMARK_ELOCKED, "%s: another writer has this log open", file->path);
}

/* ---- checkpoint ---- */

/* A sync has failed: what the disk holds is not known, and a second sync could succeed without having written it. */
static int poison(struct tidemark_file *file, tidemark_error *error) {
    int code = fail_io(file, "sync failed, no save is possible until all who have it open have closed it", error);
    atomic_store(&file->live->poisoned, 1);
    return code;
}

static int check_saving(struct tidemark_file *file, tidemark_error *error) {
    unsigned char id[16];
    int current = is_current(file, file->name, file->fd, error);
    int live_current = current == 1 ? is_current(file, file->live_name, file->live_fd, error) : current;
    if (live_current < 0) return live_current;
    if (!live_current)
        return tidemark_fail(error, TIDEMARK_EREPLACED,
                             "%s%s: was deleted or replaced since it was opened: close the state and open it anew",
                             file->path, current ? ".live" : "");
    /* another file may have been copied over it in place */
    int result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, id, error);
    if (result < 0) return result;
    if (memcmp(id, file->id, sizeof id) != 0)
        return tidemark_fail(error, TIDEMARK_EREPLACED,
                             "%s: was overwritten with another state since it was opened: close the state and open it "
                             "anew",
                             file->path);
    if (atomic_load(&file->live->poisoned))
        return tidemark_fail(error, TIDEMARK_EPOISONED,
                             "%s: an earlier sync failed: close the state in every process and open it anew",
                             file->path);
    return 0;
}

/* Makes the newest checkpoint in PATH the last durable one. Needed at the first save of all who are attached, for what
 * was loaded may stand in the page cache only, as may the file's name in its directory; and after a save that did not
 * come to its end, for it may have left a whole slot of its generation, which the live header would not name any more
 * once the next save has begun. */
static int settle(struct tidemark_file *file, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    struct tidemark_live *live = file->live;
    int result = tidemark_checkpoint_file_load(file->io, file->fd, file->path, file->id, &checkpoint, error);
    if (result < 0) return result;
    if (tidemark_io_write(file->io, file->fd, checkpoint.block, checkpoint.block_size,
                          tidemark_slot_offset(checkpoint.number)) < 0)
        result = fail_io(file, "cannot write the checkpoint that was loaded", error);
    else if (file->io->fsync(file->fd) < 0 || file->io->fsync(file->directory) < 0) result = poison(file, error);
    tidemark_checkpoint_clear(&checkpoint);
    if (result < 0) return result;
    atomic_store(&live->saved_slot, checkpoint.number);
    atomic_store(&live->saved_generation, checkpoint.generation);
    atomic_store(&live->unsynced, 0);
    return 0;
}

/* Makes the kept notes those of the last durable checkpoint, which may be another process's. */
static int refresh_notes(struct tidemark_file *file, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    if (file->live == NULL || file->notes_generation == atomic_load(&file->live->saved_generation)) return 0;
    int result = tidemark_checkpoint_file_load_slot(file->io, file->fd, file->path, file->id,
                                                    atomic_load(&file->live->saved_slot), &checkpoint, error);
    if (result < 0) return result;
    result = copy_notes(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    return result;
}

/* Writes zeros where slot `number` was never written so far, and syncs them: then a save only overwrites. */
static int prepare(struct tidemark_file *file, unsigned number, uint32_t size, tidemark_error *error) {
    uint32_t prepared = atomic_load(&file->live->prepared[number]);
    off_t offset = tidemark_slot_offset(number);
    if (size <= prepared) return 0;
    if (size < 2 * prepared) size = 2 * prepared <= TIDEMARK_SLOT_SIZE ? 2 * prepared : TIDEMARK_SLOT_SIZE;
    if (tidemark_io_zero(file->io, file->fd, offset + prepared, offset + size) < 0)
        return fail_io(file, "no room for the checkpoint", error);
    if (file->io->fdatasync(file->fd) < 0) return poison(file, error);
    atomic_store(&file->live->prepared[number], size);
    return 0;
}

/* Writes `block`, a slot that is sealed here, to the slot that is not the last durable one. */
static int write_checkpoint(struct tidemark_file *file, unsigned char *block, uint32_t bytes_size, size_t notes_size,
                            uint64_t *generation, tidemark_error *error) {
    struct tidemark_live *live = file->live;
    unsigned number = !atomic_load(&live->saved_slot);
    uint32_t size = tidemark_slot_block_size(bytes_size + notes_size);
    int result = prepare(file, number, size, error);
    if (result < 0) return result;
    *generation = atomic_load(&live->saving_generation) + 1;
    tidemark_checkpoint_seal(block, file->id, *generation, bytes_size, (uint32_t)notes_size);
    atomic_store(&live->saving_generation, *generation);
    if (tidemark_io_write(file->io, file->fd, block, size, tidemark_slot_offset(number)) < 0)
        return fail_io(file, "cannot write the checkpoint", error);
    if (file->io->fdatasync(file->fd) < 0) return poison(file, error);
    atomic_store(&live->saved_slot, number);
    atomic_store(&live->saved_generation, *generation);
    return 0;
}

/* With mutex and save lock. */
static int save(tidemark_state *state, const tidemark_note *notes, size_t count, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    unsigned char *merged = NULL, *block = NULL;
    size_t merged_size = 0;
    uint64_t generation;
    int result = check_saving(file, error);
    if (result == 0 && (atomic_load(&file->live->unsynced) ||
                        atomic_load(&file->live->saved_generation) != atomic_load(&file->live->saving_generation)))
        result = settle(file, error);
    if (result == 0) result = refresh_notes(file, error);
    if (result < 0) return result;

    size_t room = TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(state));
    if (tidemark_notes_merge(file->notes, file->notes_size, notes, count, &merged, &merged_size))
        block = tidemark_calloc(1, tidemark_slot_block_size(room + merged_size));
    if (block == NULL) {
        tidemark_free(merged);
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for a checkpoint", file->path);
    }
    /* fits: shards are added under the save lock only */
    int64_t bytes_size = tidemark_state_to_checkpoint_bytes(state, (char *)block + 64, room);
    if (merged_size > 0) memcpy(block + 64 + bytes_size, merged, merged_size);
    result = write_checkpoint(file, block, (uint32_t)bytes_size, merged_size, &generation, error);
    tidemark_free(block);
    if (result == 0) keep_notes(file, merged, merged_size, generation);
    else tidemark_free(merged);
    return result;
}

static int check_process(const struct tidemark_file *file, tidemark_error *error) {
    if (file->process == getpid()) return 0;
    return tidemark_fail(error, TIDEMARK_EFORKED,
                         "%s: opened by process %ld, which forked this one: close the state here and open it anew",
                         file->path, (long)file->process);
}

int tidemark_state_checkpoint(tidemark_state *state, const tidemark_note *notes, size_t count, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    if (file == NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "a state in memory has no file to checkpoint to");
    for (size_t i = 0; i < count; i++) {
        if (notes[i].length > TIDEMARK_NOTE_MAX)
            return tidemark_fail(error, TIDEMARK_EINVAL,
                                 "shard %" PRIu32 ": a note of %" PRIu32 " bytes, at most %d fit", notes[i].shard,
                                 notes[i].length, TIDEMARK_NOTE_MAX);
        if (tidemark_state_slot(state, notes[i].shard) == NULL) return tidemark_fail_shard(error, notes[i].shard);
    }
    if (state->readonly)
        return tidemark_fail(error, TIDEMARK_EREADONLY, "%s: the state was opened to read", file->path);
    int result = check_process(file, error);
    if (result < 0) return result;
    (void)pthread_mutex_lock(&file->mutex);
    if (lock(file, file->fd, F_WRLCK, LOCK_SAVE, true) < 0) {
        result = fail_io(file, "cannot lock it", error);
    } else {
        result = save(state, notes, count, error);
        (void)lock(file, file->fd, F_UNLCK, LOCK_SAVE, false);
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return result;
}

int tidemark_state_note(tidemark_state *state, uint32_t shard, char note[TIDEMARK_NOTE_MAX], tidemark_error *error) {
    struct tidemark_file *file = state->file;
    const unsigned char *bytes;
    if (file == NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "a state in memory has no checkpoint and no notes");
    if (shard > TIDEMARK_SHARD_MAX) return tidemark_fail_shard(error, shard);
    int result = check_process(file, error);
    if (result < 0) return result;
    (void)pthread_mutex_lock(&file->mutex);
    if (lock(file, file->fd, F_RDLCK, LOCK_SAVE, true) < 0) {
        result = fail_io(file, "cannot lock it", error);
    } else {
        result = refresh_notes(file, error);
        (void)lock(file, file->fd, F_UNLCK, LOCK_SAVE, false);
    }
    if (result == 0) {
        result = tidemark_notes_find(file->notes, file->notes_size, shard, &bytes);
        if (result > 0) memcpy(note, bytes, (size_t)result);
        if (result < 0)
            result = tidemark_fail(error, TIDEMARK_ENOT_FOUND, "%s: no note for shard %" PRIu32, file->path, shard);
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return result;
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
    int result = file != NULL ? check_process(file, error) : 0;
    if (result < 0) return result;
    if (atomic_fetch_or(&state->followed[shard / 64], bit) & bit)
        return tidemark_fail(error, TIDEMARK_ELOCKED, "shard %" PRIu32 " has a follower in this process", shard);
    if (file == NULL || lock(file, file->fd, F_WRLCK, LOCK_SHARD + (off_t)shard, false) == 0) return 0;
    if (errno == EAGAIN || errno == EACCES)
        result =
            tidemark_fail(error, TIDEMARK_ELOCKED, "%s: shard %" PRIu32 " has another follower", file->path, shard);
    else result = fail_io(file, "cannot lock a shard", error);
    clear_followed(state, shard);
    return result;
}

void tidemark_state_unlock_shard(tidemark_state *state, uint32_t shard) {
    struct tidemark_file *file = state->file;
    if (tidemark_state_slot(state, shard) == NULL || state->readonly) return;
    if (file != NULL && check_process(file, NULL) < 0) return; /* the lock is the parent's */
    if (file != NULL) (void)lock(file, file->fd, F_UNLCK, LOCK_SHARD + (off_t)shard, false);
    clear_followed(state, shard);
}
