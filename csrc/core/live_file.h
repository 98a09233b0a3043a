/* PATH.live, the shared mapping of the marks: docs/formats.md. Knows the bytes; who may map, make or change it is
 * state_file.c's. Internal. */
#ifndef TIDEMARK_CORE_LIVE_FILE_H
#define TIDEMARK_CORE_LIVE_FILE_H

#include "io.h"
#include "state.h"

#pragma GCC visibility push(hidden)

struct tidemark_live {
    /* Identity, 64 bytes: written once, after the space of what stands before the slots. */
    char magic[8];
    uint32_t version, unused0;
    unsigned char id[16]; /* of PATH */
    unsigned char boot[16];
    uint64_t device, inode; /* its own */
    /* The last durable checkpoint. `saved_slot` is written before `saved_generation`: a saver that is killed between
     * the two leaves a slot number that is right and a generation that is only too low. */
    _Atomic(uint64_t) saved_generation;
    _Atomic(uint64_t) saving_generation; /* set before a slot is written: PATH's generation is this one or the
                                            saved one */
    _Atomic(uint32_t) saved_slot;
    _Atomic(uint32_t) poisoned;
    _Atomic(uint32_t) unsynced; /* the checkpoint was loaded, and nobody has synced it since */
    uint32_t unused1;
    _Atomic(uint32_t) prepared[2]; /* bytes of each slot of PATH that were written and synced once */
    uint32_t unused2[6];
    _Atomic(uint32_t) event; /* what waiters sleep on: wait.c */
    char unused3[4096 - 132];
    _Atomic(uint64_t) present[TIDEMARK_SHARDS / 64];
    char unused4[65536 - 4096 - TIDEMARK_SHARDS / 8];
    struct tidemark_slot slots[TIDEMARK_SHARDS];
};

_Static_assert(offsetof(struct tidemark_live, saved_generation) == 64, "docs/formats.md");
_Static_assert(offsetof(struct tidemark_live, prepared) == 96, "docs/formats.md");
_Static_assert(offsetof(struct tidemark_live, event) == 128, "docs/formats.md");
_Static_assert(offsetof(struct tidemark_live, present) == 4096, "docs/formats.md");
_Static_assert(offsetof(struct tidemark_live, slots) == 65536, "docs/formats.md");
_Static_assert(sizeof(struct tidemark_live) == 4259840, "docs/formats.md");

/* What a live file must say to belong to a path, on this boot. */
struct tidemark_live_identity {
    unsigned char id[16], boot[16];
};

/* Maps `fd`, if the file is whole and has that identity: 0; 1 if it is not to be trusted (nothing is mapped). EIO. */
int tidemark_live_map(const struct tidemark_io *io, int fd, const char *path,
                      const struct tidemark_live_identity *identity, bool readonly, struct tidemark_live **live,
                      tidemark_error *error);

/* Fills the new, empty file `fd` without shards and maps it. EIO, also where the disk is full. */
int tidemark_live_make(const struct tidemark_io *io, int fd, const char *path,
                       const struct tidemark_live_identity *identity, struct tidemark_live **live,
                       tidemark_error *error);

/* Adds the shards with mark 0, where they are new. Their pages are written first, so that a full disk is an EIO here,
 * which adds none, and not a SIGBUS later. One thread of one process at a time. */
int tidemark_live_add(const struct tidemark_io *io, int fd, const char *path, struct tidemark_live *live,
                      const uint64_t wanted[TIDEMARK_SHARDS / 64], tidemark_error *error);

#pragma GCC visibility pop

#endif
