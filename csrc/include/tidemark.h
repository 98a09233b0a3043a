/*
 * tidemark: the high-water marks of a replication follower.
 *
 * A tidemark_state holds one mark per shard: every record of that shard with a seqno <= mark has been applied.
 * A mark never decreases, except by tidemark_state_reset. A state is in memory (tidemark_state_new) or backed by files
 * and then shared by every thread and process that opens the same path (tidemark_state_open).
 *
 * Threads. A state may be used from any number of threads at once, without locks; only its last reference must
 * not be in use elsewhere while it is released. No function prints, exits, longjmps or handles a signal, and none but
 * tidemark_state_interrupt may be called from a signal handler.
 *
 * Memory order. A mark changes only by a compare-and-exchange that acquires and releases, and reading it acquires. So
 * who reads a mark >= m sees everything that a thread wrote before its advance to m that returned 1. An advance that
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
#define TIDEMARK_ABI 4

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
    TIDEMARK_EUNSUPPORTED = -6,   /* another version of a format, or not for this kind of state */
    TIDEMARK_ENOT_FOUND = -7,     /* no such file, or no such note */
    TIDEMARK_EDENIED = -8,        /* a file is a link, not a plain file, or of another user */
    TIDEMARK_EREADONLY = -9,      /* the state was opened to read */
    TIDEMARK_EBUSY = -10,         /* others hold the state: files that are not on disk any more, or against a reset */
    TIDEMARK_EREPLACED = -11,     /* the files on disk are no longer those that were opened */
    TIDEMARK_EPOISONED = -12,     /* a sync failed: close the state everywhere and open it again */
    TIDEMARK_EFORKED = -13,       /* opened before a fork, used in the child: close it there */
    TIDEMARK_ELOCKED = -14,       /* another writer has the log, or another follower the shard */
    TIDEMARK_ETIMEOUT = -15,      /* nothing came in time */
    TIDEMARK_EFENCED = -16,       /* an epoch that is not above the last one */
    TIDEMARK_ELOST = -17,         /* the log ends before a record that had been durable, or it has no heads */
    TIDEMARK_EFOREIGN = -18,      /* a segment or batch of another log or shard */
    TIDEMARK_EPRUNED = -19,       /* the records asked for were pruned */
    TIDEMARK_EEND = -20,          /* the end of an archived log */
    TIDEMARK_EGAP = -21,          /* records are missing before a batch: the follower in Lua */
    TIDEMARK_EDIVERGED = -22,     /* the follower holds records that the leader does not have: the same */
    TIDEMARK_EAPPLY_FAILED = -23, /* apply or flush failed for good: the same */
    TIDEMARK_EINTERRUPTED = -24,  /* tidemark_state_interrupt ended the wait */
    TIDEMARK_EAHEAD = -25         /* a seqno above the head */
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

/* ---- waiting for marks ---- */

/* Blocks the thread until the mark of `shard` is `seqno` or above, for `timeout` seconds at most: 0 only looks,
 * negative is for ever. A mark that is there counts more than an interrupt, and that more than a time-out; but one of 0
 * leaves an interrupt to the next wait that would sleep. Signals alone do not end it. Whoever waits keeps its reference
 * meanwhile; other references may be released. As after tidemark_state_applied_seqno, what was written before the
 * advance is seen. A sleeper is woken by the advance; only where the advancing process was killed in the middle of it
 * is it later, by 0.1 s at most. A read-only state is woken where it is the heads of a log, and otherwise looks every
 * 5 ms or more often; an interrupt may reach it 0.1 s late. A state that a child has inherited over a fork can be
 * waited on. EINVAL, EUNKNOWN_SHARD, ETIMEOUT, EINTERRUPTED. */
TIDEMARK_API int tidemark_state_wait_for(tidemark_state *state, uint32_t shard, int64_t seqno, double timeout,
                                         tidemark_error *error);

/* Waits likewise until the mark of one of the shards is above the seqno given for it, and gives the first such shard;
 * with no marks, for the time-out or an interrupt. */
TIDEMARK_API int tidemark_state_wait_any(tidemark_state *state, const tidemark_mark *marks, size_t count,
                                         double timeout, uint32_t *shard, tidemark_error *error);

/* Ends the waits of this process that go on through `state`, with EINTERRUPTED; if there is none, the next one that
 * would sleep, so that no interrupt is lost which comes just before a wait. May be called from a signal handler. */
TIDEMARK_API void tidemark_state_interrupt(tidemark_state *state);

/* ---- watching marks, for event loops ---- */

/* A mark that somebody waits for without blocking. One thread at a time, whatever threads advance. */
typedef struct tidemark_watch tidemark_watch;

/* A watch for the mark of `shard` to be `seqno` or above; it holds a reference to the state until it is closed. EINVAL,
 * EUNKNOWN_SHARD, ENOMEM. */
TIDEMARK_API int tidemark_state_watch(tidemark_state *state, uint32_t shard, int64_t seqno, tidemark_watch **watch,
                                      tidemark_error *error);

/* 1 if the mark is there, and then for ever, else 0. Never blocks, for every kind of state. Where it gives 1, what was
 * written before the advance is seen. */
TIDEMARK_API int tidemark_watch_ready(const tidemark_watch *watch);

/* A descriptor that is readable once the mark is there, and stays so: for poll, epoll or a loop made of them. The first
 * call makes it, later ones give the same. It is the watch's: do not read, write or close it, and take it out of the
 * loop before tidemark_watch_close. Ask tidemark_watch_ready as well before you use what the advance has published.
 * EUNSUPPORTED for a state with files, where another process may advance; EFORKED in a child for one that its parent
 * made, which the child's advances do not make readable; ENOMEM; EIO where there are no descriptors left. An advance
 * takes a lock only where it reaches the seqno of a watch with a descriptor. */
TIDEMARK_API int tidemark_watch_fd(tidemark_watch *watch, tidemark_error *error);

/* Closes the descriptor and drops the reference. NULL is let pass. */
TIDEMARK_API void tidemark_watch_close(tidemark_watch *watch);

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
 * EUNKNOWN_SHARD for a note, EREADONLY, EFORKED, EREPLACED, ECORRUPT, EPOISONED, ENOMEM, EIO. After an EIO from a sync
 * the checkpoint is done or not, and the state is poisoned for all who have it open; after any other error the last
 * checkpoint stands. */
TIDEMARK_API int tidemark_state_checkpoint(tidemark_state *state, const tidemark_note *notes, size_t count,
                                           tidemark_error *error);

/* Copies the note that the last checkpoint carries for `shard` and returns its length; ENOT_FOUND if it has none.
 * May wait for a save. EINVAL, EUNSUPPORTED for a state in memory, EFORKED, ECORRUPT, ENOMEM, EIO. */
TIDEMARK_API int tidemark_state_note(tidemark_state *state, uint32_t shard, char note[TIDEMARK_NOTE_MAX],
                                     tidemark_error *error);

/* Lowers the mark of `shard` to `seqno`; nothing else ever lowers a mark. `note` is what the shard keeps as its note
 * from then on, NULL for none: a follower's note must lose the epochs that begin above `seqno`. On success both slots
 * of the file have the new mark and note, durably, and the live file is a new one. A read-only state that follows the
 * old one keeps the old marks, and tidemark_state_is_current returns 0 for it. If mark and note are already as asked
 * for, both slots get them and the live file stays.
 *
 * `state` must be the only reference in this process; no other thread may use it during the call. EBUSY if it is not
 * (closures and watches hold references), or if the files are open elsewhere, in this process or another, other than
 * to read. ELOCKED if any shard is locked through `state`. EINVAL also for a seqno above the mark, which the message
 * gives; EUNKNOWN_SHARD, EREADONLY, EFORKED, EREPLACED, EPOISONED, ECORRUPT, ENOMEM, EIO. Never waits for another
 * process to close the state, but may wait for one that opens, saves or reads it at that moment. A forked child that
 * goes on with an inherited state is not noticed; what it advances afterwards is lost.
 *
 * After EIO, ECORRUPT or ENOMEM the files have the old mark with the old note or the new mark with the new note. So
 * they have when the process is killed or the power fails during the call. `state` then has the old mark, and either
 * nothing has changed, or each later checkpoint of it answers EREPLACED or EPOISONED: close it, open the files again
 * and repeat the reset, which alone makes sure that the mark is the lower one after a loss of power, too. After any
 * other error mark and note are as they were; a checkpoint may have been made.
 *
 * In memory it needs the same, and `note` must be NULL (EUNSUPPORTED). */
TIDEMARK_API int tidemark_state_reset(tidemark_state *state, uint32_t shard, int64_t seqno, const tidemark_note *note,
                                      tidemark_error *error);

/* Whether the files on disk are still those that are open, the live file among them: 1, or 0 where who only reads
 * should open anew, and who writes will get EREPLACED. 1 for a state in memory. EIO. */
TIDEMARK_API int tidemark_state_is_current(const tidemark_state *state, tidemark_error *error);

typedef struct tidemark_slot_info {
    const char *why;     /* it is not valid, or NULL: it is */
    uint64_t generation; /* as it says, 0 if it says nothing */
    size_t shards;       /* of a valid one */
} tidemark_slot_info;

typedef struct tidemark_state_info {
    unsigned char id[16];
    tidemark_slot_info slots[2];
    int checkpoint;                               /* the slot that is the last checkpoint, or -1 */
    const char *live_why;                         /* the live file is not trusted, or NULL: its marks count */
    uint64_t saved_generation, saving_generation; /* as a trusted live file says */
    int poisoned;
} tidemark_state_info;

/* Reads what is in the files of `path`, whatever state they are in, without locks and without changing them; while they
 * are being saved the answer may mix two moments. ENOT_FOUND, ECORRUPT and EUNSUPPORTED for the header, ENOMEM, EIO. */
TIDEMARK_API int tidemark_state_inspect(const char *path, tidemark_state_info *info, tidemark_error *error);

/* ---- one follower per shard ---- */

/* Makes the caller the only follower of `shard` among all who have this state: threads that share it and, where it is
 * backed by files, others who opened them in this process or another. Marks can be read and advanced as before, by
 * anybody: this keeps followers apart that ask for it. ELOCKED where there is one. Lasts until
 * tidemark_state_unlock_shard, the last release of the state or the end of the process. Never blocks. EINVAL,
 * EUNKNOWN_SHARD, EREADONLY, EFORKED, EIO. */
TIDEMARK_API int tidemark_state_lock_shard(tidemark_state *state, uint32_t shard, tidemark_error *error);

/* Only for who has locked the shard. Does nothing for a shard that is not locked through `state`, or in a forked child.
 */
TIDEMARK_API void tidemark_state_unlock_shard(tidemark_state *state, uint32_t shard);

/* ---- batches: docs/formats.md ---- */

#define TIDEMARK_BATCH_HEADER 64       /* bytes */
#define TIDEMARK_BATCH_MAX    67108864 /* bytes, header included */

/* An epoch is the term of one leader of a log: seconds since 1970 in the upper 33 bits, 30 random bits below. Two
 * writers on copies of one log get different epochs, whatever their clocks say, except with a chance of 2^-30 where
 * they open it in the same second. The epochs of a log ascend. */
#define TIDEMARK_EPOCH_MAX          INT64_MAX
#define TIDEMARK_EPOCH_EXPLICIT_MAX (INT64_MAX / 2) /* the highest that a caller may ask for: 2^62 - 1 */
#define TIDEMARK_EPOCH_TEXT         32              /* bytes of the longest text of an epoch, its NUL included */

/* Writes the epoch as people see it, such as "2026-11-27T10:04:11Z#1f3a09c2": its second in UTC and its low 30 bits.
 * Returns `text`. */
TIDEMARK_API const char *tidemark_epoch_text(uint64_t epoch, char text[TIDEMARK_EPOCH_TEXT]);

typedef struct tidemark_record {
    const void *bytes; /* any; the caller's, or in the batch */
    size_t length;
} tidemark_record;

/* Where the records of a batch were first written, if that was in another history. */
typedef struct tidemark_origin {
    uint32_t log_id; /* 0: there is no origin */
    uint64_t epoch;
    int64_t first_seqno; /* of the first record of the batch */
} tidemark_origin;

/* What a batch says of its records. */
typedef struct tidemark_batch {
    uint32_t shard;
    uint32_t count;        /* records, at least 1 */
    uint64_t epoch;        /* of the records, 1..TIDEMARK_EPOCH_MAX */
    uint64_t prev_epoch;   /* of the record before the first one; 0 before record 1, and only there */
    int64_t first_seqno;   /* at least 1; the last one is first_seqno + count - 1 */
    int64_t durable_seqno; /* the head of the shard when the batch was written: first_seqno - 1, or less by at most
                              UINT32_MAX */
    uint64_t written_ms;   /* milliseconds since 1970; at most INT64_MAX */
    uint32_t log_id;       /* not 0 */
    int has_origin;        /* not 0: the payload begins with an origin */
    tidemark_origin origin;
    size_t size; /* bytes of the whole batch, header included */
} tidemark_batch;

/* Returns the bytes that a batch of these records has, with an origin where `has_origin` is not 0. EINVAL for a batch
 * of more than TIDEMARK_BATCH_MAX bytes or without a record. */
TIDEMARK_API int64_t tidemark_batch_size(const tidemark_record *records, size_t count, int has_origin);

/* Writes a batch of `batch->count` records into `bytes`, which has room for what tidemark_batch_size says, and sets
 * batch->size. The origin is written if batch->has_origin is not 0. EINVAL for a field out of its range; then nothing
 * is written. */
TIDEMARK_API int tidemark_batch_encode(tidemark_batch *batch, const tidemark_record *records, void *bytes,
                                       tidemark_error *error);

/* Reads the header at `bytes`, of which there are `size`, 64 or more. The payload need not be there, so batch->origin
 * is not read. ECORRUPT; EUNSUPPORTED for a whole header of another version or with unknown flags. */
TIDEMARK_API int tidemark_batch_decode_header(const void *bytes, size_t size, tidemark_batch *batch,
                                              tidemark_error *error);

/* Reads and checks a whole batch of exactly `size` bytes. ECORRUPT, EUNSUPPORTED. */
TIDEMARK_API int tidemark_batch_decode(const void *bytes, size_t size, tidemark_batch *batch, tidemark_error *error);

/* Returns record `position`, 0..count-1, of a batch that tidemark_batch_decode has accepted. */
TIDEMARK_API tidemark_record tidemark_batch_record(const void *bytes, const tidemark_batch *batch, uint32_t position);

/* ---- the log: a directory of segments and heads, docs/formats.md ---- */

/* A writer. One thread at a time. */
typedef struct tidemark_wal tidemark_wal;

typedef struct tidemark_wal_options {
    const uint32_t *shards; /* to be there, besides those that the log has; may be NULL */
    size_t shard_count;
    uint64_t epoch;                   /* 0: a new one, from the clock; else 1..TIDEMARK_EPOCH_EXPLICIT_MAX */
    uint64_t segment_bytes;           /* a segment is closed when the next batch would make it longer; 0: 64 MiB */
    int unsynced;                     /* not 0: appends are durable only after tidemark_wal_sync */
    const tidemark_mark *accept_loss; /* for each shard that ELOST names, the seqno at which ELOST says it ends */
    size_t accept_loss_count;
} tidemark_wal_options;

/* Opens the log in `directory` for writing, making it if need be, and begins a new epoch, which is higher than every
 * one that the log has. Recovers what an earlier writer left: a torn tail is cut and kept in a file of its own, whole
 * batches above the heads are made durable; tidemark_wal_recovery describes it. `options` may be NULL.
 *
 * ELOST if a shard ends before a record that had been durable, or if there are segments but no heads that can be read.
 * The message gives for each shard the seqno at which it ends; the caller may repeat these in `accept_loss` to go on
 * without the lost records. The old heads are then kept as heads.lost-EPOCH.
 *
 * ELOCKED if another writer has the log; EFENCED for an epoch that is not above the last one; ECORRUPT, EFOREIGN,
 * EUNSUPPORTED for damage, another log and another version; EINVAL if there would be no shard; further what
 * tidemark_state_open gives for `heads`. After an error no segment is cut or removed. */
TIDEMARK_API int tidemark_wal_open(const char *directory, const tidemark_wal_options *options, tidemark_wal **wal,
                                   tidemark_error *error);

/* Writes one batch of `count` records, at least 1, and makes it durable unless options.unsynced. Gives the seqnos of
 * its first and last record; either pointer may be NULL. EINVAL, EUNKNOWN_SHARD, ENOMEM, EPOISONED, EFORKED, EIO.
 * EREPLACED if heads, lock or directory are no longer the ones on disk, so that another writer may have the log. After
 * EREPLACED, and after an EIO that poisons the writer (a sync failed, or a failed write could not be cut off), the
 * records may be there after the next opening or not; after any other error they are not there. */
TIDEMARK_API int tidemark_wal_append(tidemark_wal *wal, uint32_t shard, const tidemark_record *records, size_t count,
                                     int64_t *first_seqno, int64_t *last_seqno, tidemark_error *error);

/* The same for records that were first written in another history, which the batch says in its origin. */
TIDEMARK_API int tidemark_wal_append_origin(tidemark_wal *wal, uint32_t shard, const tidemark_origin *origin,
                                            const tidemark_record *records, size_t count, int64_t *first_seqno,
                                            int64_t *last_seqno, tidemark_error *error);

/* Makes all that was appended durable and visible to readers. EPOISONED, EREPLACED, EIO. */
TIDEMARK_API int tidemark_wal_sync(tidemark_wal *wal, tidemark_error *error);

/* Syncs, cuts the segments to size, checkpoints the heads and frees the writer, also where one of these fails:
 * EPOISONED, EREPLACED, EIO. What was durable before the call stays so in any case. */
TIDEMARK_API int tidemark_wal_close(tidemark_wal *wal, tidemark_error *error);

/* The heads: per shard the last durable seqno. The writer's; never advance it. The caller may retain it; that keeps no
 * other writer out after tidemark_wal_close. */
TIDEMARK_API tidemark_state *tidemark_wal_heads(const tidemark_wal *wal);

TIDEMARK_API uint64_t tidemark_wal_epoch(const tidemark_wal *wal);
TIDEMARK_API uint32_t tidemark_wal_log_id(const tidemark_wal *wal);

/* What recovery did in this opening (not in one before that failed later on), a sentence for each change (shard, file,
 * offset, bytes), or NULL when `position` is past the last one. */
TIDEMARK_API const char *tidemark_wal_recovery(const tidemark_wal *wal, size_t position);

/* Removes the segments of `shard` whose records are all <= `upto`, oldest first, but never one that holds the head, and
 * the tails that recovery cut from them. Returns how many segments were removed. Needs no writer. EINVAL, ENOT_FOUND,
 * EUNKNOWN_SHARD, EUNSUPPORTED, ECORRUPT, EIO. */
TIDEMARK_API int tidemark_wal_prune(const char *directory, uint32_t shard, int64_t upto, tidemark_error *error);

typedef struct tidemark_wal_report {
    uint64_t shards, segments, batches, records;
    uint64_t bytes;   /* of all batches, headers included */
    uint64_t unknown; /* bytes behind the last durable batch of a shard, which a writer may be writing or have left */
} tidemark_wal_report;

/* Reads every batch up to the heads and checks all that can be checked. ECORRUPT, EFOREIGN, ELOST with file and offset
 * of the first problem, also ENOT_FOUND, ENOMEM, EIO; `report` then says how far it came. A log without `heads` is read
 * to its last whole batch. */
TIDEMARK_API int tidemark_wal_verify(const char *directory, tidemark_wal_report *report, tidemark_error *error);

/* ---- reading the log ---- */

/* A log as its readers share it, in any process: its directory and its heads, four descriptors. A source and all its
 * readers are used by one thread at a time; only tidemark_wal_source_interrupt is for others. */
typedef struct tidemark_wal_source tidemark_wal_source;

/* A reader of one shard. Holds no batch and one descriptor, that of its segment. */
typedef struct tidemark_wal_reader tidemark_wal_reader;

/* Opens the log in `directory` to read it. ENOT_FOUND, also while its first writer is just making it; ELOST for
 * segments without heads; ENOMEM, EIO, and what tidemark_state_open gives for `heads`. */
TIDEMARK_API int tidemark_wal_source_open(const char *directory, tidemark_wal_source **source, tidemark_error *error);

/* Reads the batches of `shard` from the one on that holds `after_seqno` + 1. The reader may outlive the source's
 * handle. EUNKNOWN_SHARD, EINVAL, EPRUNED, ENOMEM, EIO; and what has kept the source from opening the log's files anew
 * where they are other ones now. */
TIDEMARK_API int tidemark_wal_source_reader(tidemark_wal_source *source, uint32_t shard, int64_t after_seqno,
                                            tidemark_wal_reader **reader, tidemark_error *error);

/* The heads, to read: per shard the last durable seqno. The source's, until its next use or that of one of its readers:
 * they are opened anew when the log's files are other ones. */
TIDEMARK_API tidemark_state *tidemark_wal_source_heads(tidemark_wal_source *source);

/* Returns the id of the log, 0 while its first writer is just making it. */
TIDEMARK_API uint32_t tidemark_wal_source_log_id(tidemark_wal_source *source);

/* Gives the epoch of a record, for log matching: two histories that have the same epoch at one seqno are the same up to
 * there. 0 for seqno 0; known for every seqno from the one before the log's first record up to the head. EPRUNED below,
 * EAHEAD above the head; EUNKNOWN_SHARD, EINVAL, ECORRUPT, ELOST, ENOMEM, EIO. */
TIDEMARK_API int tidemark_wal_source_epoch(tidemark_wal_source *source, uint32_t shard, int64_t seqno, uint64_t *epoch,
                                           tidemark_error *error);

/* Waits until the head of one of the shards is above the seqno given for it, and gives the first such shard; one that
 * the log does not have does not move. `timeout` and sleep are those of tidemark_state_wait_any. EINVAL, ETIMEOUT,
 * EINTERRUPTED. */
TIDEMARK_API int tidemark_wal_source_wait(tidemark_wal_source *source, const tidemark_mark *marks, size_t count,
                                          double timeout, uint32_t *shard, tidemark_error *error);

/* Ends the wait that goes on through the source or one of its readers with EINTERRUPTED, within 0.1 s; if there is
 * none, the next one that would sleep. From any thread, also from a signal handler, as long as the source is there. */
TIDEMARK_API void tidemark_wal_source_interrupt(tidemark_wal_source *source);

/* Drops the caller's handle; its readers keep what they need. NULL is let pass. */
TIDEMARK_API void tidemark_wal_source_close(tidemark_wal_source *source);

/* Nobody writes the log any more: read to its heads or, if it has none, to the last whole batch, then EEND. */
#define TIDEMARK_READ_ARCHIVE 1u

/* A reader with a source of its own, that is with five descriptors. As tidemark_wal_source_reader; also ENOT_FOUND, and
 * what tidemark_state_open gives for `heads`. */
TIDEMARK_API int tidemark_wal_reader_open(const char *directory, uint32_t shard, int64_t after_seqno, unsigned flags,
                                          tidemark_wal_reader **reader, tidemark_error *error);

/* Waits until the next batch is durable, for `timeout` seconds at most (0: does not wait; negative: for ever), and
 * gives its header. Blocks the OS thread, asleep until the writer wakes it. ETIMEOUT; EINTERRUPTED; EEND in an archive;
 * EPRUNED; EREPLACED if other heads (with another file id), another directory, another segment or another record have
 * taken the place of those that were read: open a new reader; ELOST; ECORRUPT, EFOREIGN with file and offset; EINTR
 * does not end it. */
TIDEMARK_API int tidemark_wal_reader_wait(tidemark_wal_reader *reader, double timeout, tidemark_batch *batch,
                                          tidemark_error *error);

/* Reads the batch whose header tidemark_wal_reader_wait has just given into `bytes`, batch->size of them, checks it
 * whole, fills `batch` with all that it says, its origin included, and moves on. ECORRUPT, EIO; then the reader stays
 * where it is. */
TIDEMARK_API int tidemark_wal_reader_read(tidemark_wal_reader *reader, void *bytes, tidemark_batch *batch,
                                          tidemark_error *error);

/* The last durable seqno of the shard, also above what was read; EEND in an archive. */
TIDEMARK_API int64_t tidemark_wal_reader_head(tidemark_wal_reader *reader);

TIDEMARK_API void tidemark_wal_reader_close(tidemark_wal_reader *reader);

#ifdef __cplusplus
}
#endif

#endif
