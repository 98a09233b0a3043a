/*
 * tidemark: the high-water marks of a replication follower.
 *
 * A tidemark_state holds one mark per shard: every record of that shard with a seqno <= mark has been applied.
 * A mark never decreases. A state is in memory (tidemark_state_new) or backed by files and then shared by every
 * thread and process that opens the same path (tidemark_state_open).
 *
 * Threads. A state may be used from any number of threads at once, without locks; only its last reference must
 * not be in use elsewhere while it is released. No function prints, exits, longjmps or handles a signal.
 *
 * Memory order. A mark changes only by an acquire-release compare-and-exchange, and reading it acquires. So who
 * reads a mark >= m sees everything that a thread wrote before its advance to m that returned 1. An advance that
 * returned 0 publishes nothing; it acquires, as a read does.
 *
 * Results. A function that returns an int gives 0 or more on success, a negative TIDEMARK_E* otherwise, and then has
 * changed nothing unless it says so. `error` may be NULL; it is written on failure only.
 */
#ifndef TIDEMARK_H
#define TIDEMARK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef TIDEMARK_MODULE /* the Lua module exports luaopen_ only, lest a host's libtidemark take its calls */
#define TIDEMARK_API __attribute__((visibility("hidden")))
#else
#define TIDEMARK_API __attribute__((visibility("default")))
#endif

#define TIDEMARK_VERSION "0.1.0"

/* Changes with the layout of a state in memory. States pass only between builds of the same ABI. */
#define TIDEMARK_ABI 1

#define TIDEMARK_SHARD_MAX 65535
#define TIDEMARK_SEQNO_MAX INT64_MAX
#define TIDEMARK_NOTE_MAX  128 /* bytes */

/* The longest checkpoint text that is read, in bytes. */
#define TIDEMARK_CHECKPOINT_MAX 4194304

/* How many bytes the checkpoint text of so many shards takes at the most. */
#define TIDEMARK_CHECKPOINT_SIZE(shards) (2 + 28 * (size_t)(shards))

/* Each code has a word, TIDEMARK_EUNKNOWN_SHARD is "UNKNOWN_SHARD": see tidemark_code_name. */
enum {
    TIDEMARK_EINVAL = -1,         /* a shard, seqno or other argument out of its range */
    TIDEMARK_ENOMEM = -2,         /* no memory */
    TIDEMARK_EIO = -3,            /* a system call failed: the message says which, where and why */
    TIDEMARK_EUNKNOWN_SHARD = -4, /* the state does not track that shard */
    TIDEMARK_ECORRUPT = -5,       /* bytes or a file are damaged; they are left as they are */
    TIDEMARK_EUNSUPPORTED = -6,   /* a newer format, or not for this kind of state */
    TIDEMARK_ENOT_FOUND = -7,     /* no such file, or no such note */
    TIDEMARK_EDENIED = -8,        /* a file is a link, not a plain file, or of another user */
    TIDEMARK_EREADONLY = -9,      /* the state was opened to read */
    TIDEMARK_EBUSY = -10,         /* other processes hold the files and what is on disk is not what they hold */
    TIDEMARK_EREPLACED = -11,     /* the files on disk are no longer those that were opened */
    TIDEMARK_EPOISONED = -12,     /* a sync failed: close the state everywhere and open it anew */
    TIDEMARK_EFORKED = -13,       /* opened before a fork, used in the child: close it there and open it anew */
    TIDEMARK_ELOCKED = -14,       /* another writer has the log, or another follower the shard */
    TIDEMARK_ETIMEOUT = -15,      /* nothing came in time */
    TIDEMARK_EFENCED = -16,       /* an epoch that is not above the last one */
    TIDEMARK_ELOST = -17,         /* the log ends before what had been durable */
    TIDEMARK_EFOREIGN = -18,      /* a segment or batch of another log or shard */
    TIDEMARK_EPRUNED = -19        /* the records asked for were pruned */
};

typedef struct tidemark_error {
    int code;          /* TIDEMARK_E* */
    char message[508]; /* what, where and why; NUL-terminated, cut if too long */
} tidemark_error;

typedef struct tidemark_mark {
    uint32_t shard;
    int64_t seqno;
} tidemark_mark;

typedef struct tidemark_note {
    uint32_t shard;
    uint32_t length;   /* 0..TIDEMARK_NOTE_MAX */
    const void *bytes; /* the caller's */
} tidemark_note;

typedef struct tidemark_state tidemark_state;

TIDEMARK_API const char *tidemark_version(void);

/* "CORRUPT" for TIDEMARK_ECORRUPT and so on; "UNKNOWN" for what is no code. */
TIDEMARK_API const char *tidemark_code_name(int code);

/* ---- making and dropping ---- */

/* A state in memory that tracks the `count` shards, in any order, a repeated one once; every mark 0. The caller owns
 * one reference. EINVAL for an id over TIDEMARK_SHARD_MAX, ENOMEM. Takes 64 bytes a shard and 2 bytes for each id up to
 * the highest. */
TIDEMARK_API int tidemark_state_new(const uint32_t *shards, size_t count, tidemark_state **state,
                                    tidemark_error *error);

/* A state in memory with the shards and marks of this moment; each mark is exact, the set is not one instant. ENOMEM.
 */
TIDEMARK_API int tidemark_state_clone(const tidemark_state *state, tidemark_state **clone, tidemark_error *error);

/* One more reference; returns `state`. */
TIDEMARK_API tidemark_state *tidemark_state_retain(tidemark_state *state);

/* One reference less; the last one frees the state and closes its files, without a checkpoint. NULL is let pass. */
TIDEMARK_API void tidemark_state_release(tidemark_state *state);

/* ---- marks: wait-free reads, lock-free advances ---- */

/* The mark of `shard`, or TIDEMARK_EUNKNOWN_SHARD (EINVAL for an id out of range). */
TIDEMARK_API int64_t tidemark_state_applied_seqno(const tidemark_state *state, uint32_t shard);

/* Moves the mark up to `seqno`: 1 if it moved, 0 if it already stood there or further. EINVAL, EUNKNOWN_SHARD,
 * EREADONLY. */
TIDEMARK_API int tidemark_state_advance(tidemark_state *state, uint32_t shard, int64_t seqno);

/* Checks all `count` marks, then advances each: how many moved. A shard may come more than once. EINVAL,
 * EUNKNOWN_SHARD, EREADONLY. */
TIDEMARK_API int tidemark_state_advance_all(tidemark_state *state, const tidemark_mark *marks, size_t count,
                                            tidemark_error *error);

/* How many shards are tracked. A file-backed state may gain some while it is open. */
TIDEMARK_API size_t tidemark_state_count(const tidemark_state *state);

/* The smallest tracked shard id above `after`, or -1. Begin with -1. */
TIDEMARK_API int tidemark_state_next(const tidemark_state *state, int after);

/* Copies up to `capacity` shards and marks, ascending by shard; returns how many. Each mark is exact, the set is not
 * one instant. */
TIDEMARK_API size_t tidemark_state_snapshot(const tidemark_state *state, tidemark_mark *marks, size_t capacity);

/* ---- checkpoint bytes: docs/formats.md ---- */

/* Writes the checkpoint text (no NUL at its end) and returns its length. EINVAL, and what `bytes` holds means nothing,
 * when `size` is less than TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(state)); a file-backed state may gain shards
 * after you asked, also while this writes. */
TIDEMARK_API int64_t tidemark_state_to_checkpoint_bytes(const tidemark_state *state, char *bytes, size_t size);

/* A state in memory that tracks exactly `shards`: marks from the text, 0 where it has none; other shards in the text
 * are dropped. ECORRUPT names the byte offset of what is wrong. EINVAL, ENOMEM. */
TIDEMARK_API int tidemark_state_from_checkpoint_bytes(const char *bytes, size_t length, const uint32_t *shards,
                                                      size_t count, tidemark_state **state, tidemark_error *error);

/* ---- state files: docs/formats.md ---- */

/* Flags of tidemark_state_open. */
#define TIDEMARK_OPEN_EXISTING 1u /* the file must be there: ENOT_FOUND otherwise, and nothing is made */
#define TIDEMARK_OPEN_READONLY \
    2u /* take no part: makes, locks for life and changes nothing; implies OPEN_EXISTING, `shards` are ignored */

/* Opens the state of the files `path` and `path`.live, making them if need be (mode 0600). It tracks what they hold and
 * `shards`, which start at 0 where they are new. Every open of one path, in this process or another, sees the same
 * marks at once; they survive the end of every process, and a restart of the machine takes them back to the last
 * checkpoint. A read-only state follows the live marks where there are any, else it has those of the last checkpoint.
 * Waits for others who open or save at the same moment. Needs a local file system.
 * EINVAL, ENOMEM, EIO, ECORRUPT, EUNSUPPORTED, ENOT_FOUND, EDENIED, EBUSY. */
TIDEMARK_API int tidemark_state_open(const char *path, const uint32_t *shards, size_t count, unsigned flags,
                                     tidemark_state **state, tidemark_error *error);

/* Makes the marks durable: on success every mark that stood when the call began is. `notes` replace the kept notes of
 * their shards, others stay. Blocks for one fdatasync; savers take turns. EUNSUPPORTED for a state in memory, EINVAL,
 * EUNKNOWN_SHARD for a note, EREADONLY, EFORKED, EREPLACED, EPOISONED, ENOMEM, EIO. After an EIO from a sync the
 * checkpoint is done or not, and the state is poisoned for all who have it open; after any other error the last
 * checkpoint stands. */
TIDEMARK_API int tidemark_state_checkpoint(tidemark_state *state, const tidemark_note *notes, size_t count,
                                           tidemark_error *error);

/* Copies the note that the last checkpoint carries for `shard` and returns its length; ENOT_FOUND if it has none.
 * May wait for a save. EINVAL, EUNSUPPORTED for a state in memory, EFORKED, ECORRUPT, ENOMEM, EIO. */
TIDEMARK_API int tidemark_state_note(tidemark_state *state, uint32_t shard, char note[TIDEMARK_NOTE_MAX],
                                     tidemark_error *error);

#ifdef __cplusplus
}
#endif

#endif
