/* The files of an open state, and what opening them (state_file.c) and saving to them (state_save.c) share. Internal.
 */
#ifndef TIDEMARK_CORE_STATE_SAVE_H
#define TIDEMARK_CORE_STATE_SAVE_H

#include <pthread.h>

#include "checkpoint_file.h"
#include "io.h"
#include "live_file.h"

#pragma GCC visibility push(hidden)

/* Locks: docs/formats.md. */
#define LOCK_ATTACH ((off_t)1 << 62)
#define LOCK_CHANGE (LOCK_ATTACH + 1)
#define LOCK_SAVE   (LOCK_ATTACH + 2)
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

/* EIO: "PATH: what: errno's text". */
static inline int tidemark_file_fail_io(const struct tidemark_file *file, const char *what, tidemark_error *error) {
    return tidemark_io_fail(error, file->path, "", what);
}

/* Whether `name` is still the file that is open as `fd`: 1, 0, or EIO. */
int tidemark_file_is_current(const struct tidemark_file *file, const char *name, int fd, tidemark_error *error);

/* EFORKED in a child of the process that opened it. */
int tidemark_file_check_process(const struct tidemark_file *file, tidemark_error *error);

/* Keeps a copy of the checkpoint's notes. ENOMEM. */
int tidemark_file_copy_notes(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint,
                             tidemark_error *error);

/* A checkpoint of the state: see tidemark_state_checkpoint, whose checks of the arguments are the
 * caller's. With mutex and save lock. */
int tidemark_file_save(tidemark_state *state, const tidemark_note *notes, size_t count, tidemark_error *error);

/* The block of a slot with the marks of `state`, of any kind, and these notes, to be sealed and to be
 * freed with tidemark_free; NULL if there is no memory. `*bytes_size` is the length of the marks. */
unsigned char *tidemark_file_new_block(const tidemark_state *state, const unsigned char *notes, size_t notes_size,
                                       uint32_t *bytes_size);

/* Makes a live file with the shards and marks of the checkpoint, the newest in PATH, and maps it. It
 * becomes live_fd and live of `file`, both of which must be empty; after an error they may hold what is
 * not whole. With change, save and the exclusive attach lock of PATH; leaves the new file's attach lock
 * exclusive. EIO. */
int tidemark_file_new_live(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint,
                           tidemark_error *error);

#pragma GCC visibility pop

#endif
