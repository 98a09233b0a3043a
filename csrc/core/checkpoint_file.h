/* PATH, the durable checkpoint: a header and two slots (docs/formats.md). Knows the bytes; when to write which is
 * state_file.c's. Internal. */
#ifndef TIDEMARK_CORE_CHECKPOINT_FILE_H
#define TIDEMARK_CORE_CHECKPOINT_FILE_H

#include "io.h"

#pragma GCC visibility push(hidden)

#define TIDEMARK_BLOCK     4096
#define TIDEMARK_SLOT_SIZE 16777216

/* A slot that has been read. */
struct tidemark_checkpoint {
    uint64_t generation;
    unsigned number; /* 0 or 1 */
    unsigned char
        *block; /* the whole slot as it stands in the file, block_size bytes: header, checkpoint bytes, notes, zeros */
    uint32_t block_size;
    tidemark_mark *marks; /* decoded */
    size_t count;
    const unsigned char *notes; /* in `block` */
    size_t notes_size;
};

/* Frees what it holds. */
void tidemark_checkpoint_clear(struct tidemark_checkpoint *checkpoint);

/* Makes the file `name` with slot 0 at generation 1 and no shards, durably, unless there is one: 0 either way. EIO.
 * `path` is for messages. */
int tidemark_checkpoint_file_make(const struct tidemark_io *io, int directory, const char *name, const char *new_name,
                                  const char *path, tidemark_error *error);

/* Reads and checks the header and gives the file's id. ECORRUPT, EUNSUPPORTED, EIO. */
int tidemark_checkpoint_file_id(const struct tidemark_io *io, int fd, const char *path, unsigned char id[16],
                                tidemark_error *error);

/* Reads slot `number`. 0 and `*why` NULL: valid, to be cleared; 0 and a reason: not valid, nothing to clear; the
 * generation is what it says, 0 if it says nothing. ENOMEM, EIO. */
int tidemark_checkpoint_file_read_slot(const struct tidemark_io *io, int fd, const char *path,
                                       const unsigned char id[16], unsigned number,
                                       struct tidemark_checkpoint *checkpoint, const char **why, tidemark_error *error);

/* Reads the valid slot of the highest generation; clear it afterwards. ECORRUPT where none is valid, with the reasons.
 * ENOMEM, EIO. */
int tidemark_checkpoint_file_load(const struct tidemark_io *io, int fd, const char *path, const unsigned char id[16],
                                  struct tidemark_checkpoint *checkpoint, tidemark_error *error);

/* Reads slot `number`, which must be valid. ECORRUPT, ENOMEM, EIO. */
int tidemark_checkpoint_file_load_slot(const struct tidemark_io *io, int fd, const char *path,
                                       const unsigned char id[16], unsigned number,
                                       struct tidemark_checkpoint *checkpoint, tidemark_error *error);

/* Turns a block into a slot. `block` holds the payload at 64 and has zeros before and behind it. */
void tidemark_checkpoint_seal(unsigned char *block, const unsigned char id[16], uint64_t generation,
                              uint32_t bytes_size, uint32_t notes_size);

static inline off_t tidemark_slot_offset(unsigned number) {
    return TIDEMARK_BLOCK + (off_t)number * TIDEMARK_SLOT_SIZE;
}

/* How many bytes a slot with that payload takes in the file. */
static inline uint32_t tidemark_slot_block_size(size_t payload) {
    return (uint32_t)((64 + payload + TIDEMARK_BLOCK - 1) / TIDEMARK_BLOCK * TIDEMARK_BLOCK);
}

#pragma GCC visibility pop

#endif
