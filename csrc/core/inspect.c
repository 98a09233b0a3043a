/* Looking at the files of a state without opening it: what each slot holds, and whether the live file counts. */
#define _XOPEN_SOURCE 700 /* O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "checkpoint_file.h"
#include "error.h"
#include "live_file.h"

static const struct tidemark_io *const io = &tidemark_io_system;

static int inspect_slots(int fd, const char *path, tidemark_state_info *info, tidemark_error *error) {
    for (unsigned number = 0; number < 2; number++) {
        struct tidemark_checkpoint slot;
        tidemark_slot_info *found = &info->slots[number];
        int result = tidemark_checkpoint_file_read_slot(io, fd, path, info->id, number, &slot, &found->why, error);
        if (result < 0) return result;
        found->generation = slot.generation;
        if (found->why != NULL) continue;
        found->shards = slot.count;
        tidemark_checkpoint_clear(&slot);
        if (info->checkpoint < 0 || found->generation > info->slots[info->checkpoint].generation)
            info->checkpoint = (int)number;
    }
    return 0;
}

/* Why the mapped live file, which has the right size, is not one that an opening would trust, or NULL. */
static const char *distrust(const struct tidemark_live *live, const struct stat *status,
                            const tidemark_state_info *info) {
    unsigned char boot[16];
    if (memcmp(&live->magic, "TMLIVE01", 8) != 0) return "no magic: it was never finished";
    if (live->version != 1) return "another version";
    if (memcmp(live->id, info->id, sizeof live->id) != 0) return "it belongs to another state file";
    if (io->boot_id(boot) < 0 || memcmp(live->boot, boot, sizeof boot) != 0)
        return "the machine was started again since";
    if (live->device != (uint64_t)status->st_dev || live->inode != (uint64_t)status->st_ino) return "it is a copy";
    uint64_t generation = info->checkpoint >= 0 ? info->slots[info->checkpoint].generation : 0;
    if (generation != atomic_load(&live->saved_generation) && generation != atomic_load(&live->saving_generation))
        return "the state file is older or newer than it: it was restored";
    return NULL;
}

static int inspect_live(const char *path, tidemark_state_info *info, tidemark_error *error) {
    struct stat status;
    char name[4096];
    struct tidemark_live *live = NULL;
    (void)snprintf(name, sizeof name, "%s.live", path);
    int fd = io->openat(AT_FDCWD, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    info->live_why = "there is none";
    if (fd < 0) return errno == ENOENT ? 0 : tidemark_io_fail(error, path, ".live", "cannot open it");
    int result = 0;
    info->live_why = "cut short or too long";
    live = tidemark_calloc(1, sizeof *live);
    if (live == NULL) result = tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", path);
    else if (io->fstat(fd, &status) < 0) result = tidemark_io_fail(error, path, ".live", "cannot read its status");
    else if (status.st_size == (off_t)sizeof *live) {
        if (tidemark_io_read(io, fd, live, offsetof(struct tidemark_live, present), 0) < 0)
            result = tidemark_io_fail(error, path, ".live", "cannot read it");
        else info->live_why = distrust(live, &status, info);
    }
    if (result == 0 && info->live_why == NULL) {
        info->saved_generation = atomic_load(&live->saved_generation);
        info->saving_generation = atomic_load(&live->saving_generation);
        info->poisoned = atomic_load(&live->poisoned) != 0;
    }
    tidemark_free(live);
    (void)io->close(fd);
    return result;
}

int tidemark_state_inspect(const char *path, tidemark_state_info *info, tidemark_error *error) {
    *info = (tidemark_state_info){.checkpoint = -1};
    int fd = io->openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0) {
        int code = errno == ENOENT ? TIDEMARK_ENOT_FOUND : TIDEMARK_EIO;
        return tidemark_fail(error, code, "%s: cannot open it: %s", path, strerror(errno));
    }
    int result = tidemark_checkpoint_file_id(io, fd, path, info->id, error);
    if (result == 0) result = inspect_slots(fd, path, info, error);
    if (result == 0) result = inspect_live(path, info, error);
    (void)io->close(fd);
    return result;
}
