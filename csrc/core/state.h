/*
 * What a state is made of. Internal to the core and the bindings.
 *
 * In memory: one block holds the struct, the slots in ascending order of shard, and `index`:
 *
 *     index[shard] -> position in slots        slots[position].shard == shard, or the shard is not tracked
 *     +---+---+---+---+---+                    +----------+----------+
 *     | 0 | - | 1 | ...                        | shard 0  | shard 2  | ...   64 bytes each
 *     +---+---+---+---+---+                    +----------+----------+
 *
 * An entry of an untracked shard is 0, so it leads to a slot of another shard: no value is lost to a sentinel, and
 * 65,536 shards fit 16-bit entries. File-backed: `slots` and `present` lie in the mapping of PATH.live, slots[shard]
 * belongs to the shard, and it may be touched only if the shard's presence bit is set (its page may not exist
 * otherwise).
 */
#ifndef TIDEMARK_CORE_STATE_H
#define TIDEMARK_CORE_STATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "tidemark.h"

#pragma GCC visibility push(hidden)

#define TIDEMARK_SHARDS (TIDEMARK_SHARD_MAX + 1)

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(_Atomic(int64_t)) == 8, "marks need lock-free 64-bit atomics");

/* Bits of a slot's waiter word. */
#define TIDEMARK_MAY_SLEEP   1u /* somebody may sleep on this mark; the next advance wakes and clears it: wait.c */
#define TIDEMARK_WAKE_ALWAYS 2u /* every advance wakes; never cleared: wait.c */
#define TIDEMARK_WATCHED     4u /* a descriptor may have to be made readable at a mark of `watched` or above: watch.c */

/* One cache line, so that advances of neighbouring shards do not slow each other. In the live file as well:
 * docs/formats.md. */
struct tidemark_slot {
    _Atomic(int64_t) mark;    /* lowered by tidemark_state_reset only, and that in memory only */
    _Atomic(uint32_t) waiter; /* not 0: who advances has more to do */
    uint32_t shard;           /* in memory only, as is the next */
    _Atomic(int64_t) watched; /* means something only with TIDEMARK_WATCHED */
    char padding[40];
};
_Static_assert(sizeof(struct tidemark_slot) == 64, "a slot is one cache line");

struct tidemark_file;
struct tidemark_watches;

struct tidemark_state {
    struct tidemark_slot *slots;
    const uint16_t *index;       /* in memory; index_size entries */
    _Atomic(uint64_t) *present;  /* file-backed: one bit for each of TIDEMARK_SHARDS; NULL in memory */
    _Atomic(uint64_t) *followed; /* a bit for each shard locked through this object; for ids as `index` or `present` */
    struct tidemark_file *file;  /* the files behind it, or NULL */
    uint32_t index_size;         /* highest id + 1; 0 if file-backed or empty */
    uint32_t count;              /* in memory: how many slots */
    bool readonly;
    void *block;                                    /* what to free */
    size_t block_size;                              /* bytes */
    void (*close_file)(struct tidemark_file *file); /* set together with `file`; state.c knows no files */
    _Atomic(uint32_t) *event;                       /* what waiters sleep on: own_event, or the live file's */
    _Alignas(64) _Atomic(size_t) references;        /* on another line: retain and release do not slow reads */
    _Atomic(uint32_t) own_event;
    _Atomic(uint32_t) interrupts;               /* how often interrupted */
    _Atomic(uint32_t) interrupts_met;           /* of these, how many have ended a wait */
    _Atomic(struct tidemark_watches *) watches; /* NULL until the first descriptor is made: watch.c */
};

/* A zeroed state without slots, one reference, or NULL. `room` bytes after it in the same block, at state + 1, aligned
 * to 64. */
struct tidemark_state *tidemark_state_allocate(size_t room);

/* The slot of a tracked shard, or NULL. */
static inline struct tidemark_slot *tidemark_state_slot(const struct tidemark_state *state, uint32_t shard) {
    if (state->present == NULL) {
        if (shard >= state->index_size) return NULL;
        struct tidemark_slot *slot = state->slots + state->index[shard];
        return slot->shard == shard ? slot : NULL;
    }
    if (shard > TIDEMARK_SHARD_MAX) return NULL;
    /* acquire: pairs with the release that set the bit, after the slot's page was made */
    uint64_t word = atomic_load_explicit(&state->present[shard / 64], memory_order_acquire);
    return word >> (shard % 64) & 1 ? state->slots + shard : NULL;
}

static inline int64_t tidemark_slot_read(struct tidemark_slot *slot) {
    return atomic_load_explicit(&slot->mark, memory_order_acquire);
}

/* Moves the mark up to seqno >= 0; whether it moved. Wakes nobody. A failed exchange acquires too, so a stale advance
 * has read the mark. */
static inline bool tidemark_slot_advance(struct tidemark_slot *slot, int64_t seqno) {
    int64_t mark = atomic_load_explicit(&slot->mark, memory_order_acquire);
    while (mark < seqno) {
        if (atomic_compare_exchange_weak_explicit(&slot->mark, &mark, seqno, memory_order_seq_cst,
                                                  memory_order_acquire))
            return true;
    }
    return false;
}

/* Wakes those who sleep on the marks of the state, and clears the slot's flag MAY_SLEEP; sees to the watches. wait.c */
void tidemark_state_wake(struct tidemark_state *state, struct tidemark_slot *slot);

/* The same for a slot of `state`, and wakes who may wait for its mark. */
static inline bool tidemark_state_advance_slot(struct tidemark_state *state, struct tidemark_slot *slot,
                                               int64_t seqno) {
    if (!tidemark_slot_advance(slot, seqno)) return false;
    if (atomic_load_explicit(&slot->waiter, memory_order_seq_cst) != 0) tidemark_state_wake(state, slot);
    return true;
}

/* 0 if all shards are tracked and all seqnos in range; EINVAL, EUNKNOWN_SHARD. */
int tidemark_state_check_marks(const struct tidemark_state *state, const tidemark_mark *marks, size_t count,
                               tidemark_error *error);

/* As tidemark_state_reset. `kept` is the note from which the caller has made `note`, NULL if there was none: EBUSY if
 * it is another one by now. */
int tidemark_state_reset_from(tidemark_state *state, uint32_t shard, int64_t seqno, const tidemark_note *kept,
                              const tidemark_note *note, tidemark_error *error);

/* TIDEMARK_EINVAL for an id out of range, else TIDEMARK_EUNKNOWN_SHARD, with a message. */
int tidemark_fail_shard(tidemark_error *error, uint32_t shard);

#pragma GCC visibility pop

#endif
