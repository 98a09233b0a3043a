/* The directory of a log: opening it, and who it is (log id and epoch, in a note of its heads). */
#define _XOPEN_SOURCE 700 /* O_DIRECTORY, O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "wal.h"

#define IDENTITY_SIZE 12 /* bytes of the note */

int tidemark_log_open(const struct tidemark_io *io, const char *path, struct tidemark_log *log, tidemark_error *error) {
    size_t length = strlen(path);
    int fd = io->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) {
        int code = errno == ENOENT ? TIDEMARK_ENOT_FOUND : TIDEMARK_EIO;
        return tidemark_fail(error, code, "%s: cannot open it: %s", path, strerror(errno));
    }
    *log = (struct tidemark_log){.io = io, .directory = fd};
    log->heads_path = tidemark_malloc(2 * length + sizeof "/heads" + 1);
    if (log->heads_path == NULL) {
        (void)io->close(fd);
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory", path);
    }
    log->path = log->heads_path + length + sizeof "/heads";
    memcpy(log->heads_path, path, length);
    memcpy(log->heads_path + length, "/heads", sizeof "/heads");
    memcpy(log->path, path, length + 1);
    return 0;
}

void tidemark_log_close(struct tidemark_log *log) {
    (void)log->io->close(log->directory);
    tidemark_free(log->heads_path);
}

int tidemark_log_read_identity(const struct tidemark_log *log, tidemark_state *heads,
                               struct tidemark_log_identity *identity, tidemark_error *error) {
    unsigned char note[TIDEMARK_NOTE_MAX];
    *identity = (struct tidemark_log_identity){0, 0};
    for (int shard = tidemark_state_next(heads, -1); shard >= 0; shard = tidemark_state_next(heads, shard)) {
        int length = tidemark_state_note(heads, (uint32_t)shard, (char *)note, error);
        if (length == TIDEMARK_ENOT_FOUND) continue; /* a shard that was added when its writer was cut off */
        if (length < 0) return length;
        identity->log_id = length == IDENTITY_SIZE ? tidemark_get64(note) : 0;
        identity->epoch = tidemark_get32(note + 8);
        if (identity->log_id == 0)
            return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: shard %d: its note is not that of a log",
                                 log->heads_path, shard);
        return 0;
    }
    return 0;
}

int tidemark_log_write_identity(tidemark_state *heads, const struct tidemark_log_identity *identity,
                                tidemark_error *error) {
    unsigned char bytes[IDENTITY_SIZE];
    tidemark_put64(bytes, identity->log_id);
    tidemark_put32(bytes + 8, identity->epoch);
    tidemark_note note = {(uint32_t)tidemark_state_next(heads, -1), sizeof bytes, bytes};
    return tidemark_state_checkpoint(heads, &note, 1, error);
}
