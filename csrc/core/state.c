/*
 * ReplicationState in memory: making, counting references, reading and advancing marks. Layout and invariants: state.h.
 *
 * References: an increment needs no order, for who makes one holds one. A decrement releases, and the last one acquires
 * before it frees, so that every use by another thread comes before the free.
 */
#include "state.h"

#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "watch.h"

#define LINE 64

struct tidemark_state *tidemark_state_allocate(size_t room) {
    size_t size = sizeof(struct tidemark_state) + room + LINE - 1;
    char *block = tidemark_calloc(1, size);
    if (block == NULL) return NULL;
    struct tidemark_state *state = (struct tidemark_state *)(((uintptr_t)block + LINE - 1) / LINE * LINE);
    state->block = block;
    state->block_size = size;
    state->event = &state->own_event;
    atomic_init(&state->references, 1);
    return state;
}

int tidemark_fail_shard(tidemark_error *error, uint32_t shard) {
    if (shard > TIDEMARK_SHARD_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard id out of range: %" PRIu32, shard);
    return tidemark_fail(error, TIDEMARK_EUNKNOWN_SHARD, "shard %" PRIu32 " is not tracked", shard);
}

/* ---- making and dropping ---- */

int tidemark_state_new(const uint32_t *shards, size_t count, tidemark_state **result, tidemark_error *error) {
    uint64_t wanted[TIDEMARK_SHARDS / 64]; /* a set; only its first index_size bits are used */
    uint32_t index_size = 0, distinct = 0;
    for (size_t i = 0; i < count; i++) {
        if (shards[i] > TIDEMARK_SHARD_MAX) return tidemark_fail_shard(error, shards[i]);
        if (shards[i] >= index_size) index_size = shards[i] + 1;
    }
    uint32_t words = (index_size + 63) / 64;
    memset(wanted, 0, words * sizeof wanted[0]);
    for (size_t i = 0; i < count; i++) wanted[shards[i] / 64] |= (uint64_t)1 << shards[i] % 64;
    for (uint32_t word = 0; word < words; word++) distinct += (uint32_t)__builtin_popcountll(wanted[word]);

    size_t slots_size = distinct * sizeof(struct tidemark_slot);
    size_t followed_size = words * sizeof(_Atomic(uint64_t));
    struct tidemark_state *state = tidemark_state_allocate(slots_size + followed_size + index_size * sizeof(uint16_t));
    if (state == NULL) return tidemark_fail(error, TIDEMARK_ENOMEM, "no memory for %" PRIu32 " shards", distinct);
    char *at = (char *)(state + 1);
    uint16_t *index = (uint16_t *)(at + slots_size + followed_size);
    state->slots = (struct tidemark_slot *)at;
    state->followed = (void *)(at + slots_size);
    state->index = index;
    state->index_size = index_size;
    state->count = distinct;
    uint32_t position = 0;
    for (uint32_t word = 0; word < words; word++) {
        for (uint64_t bits = wanted[word]; bits != 0; bits &= bits - 1) {
            uint32_t shard = word * 64 + (uint32_t)__builtin_ctzll(bits);
            index[shard] = (uint16_t)position;
            state->slots[position++].shard = shard;
        }
    }
    *result = state;
    return 0;
}

int tidemark_state_clone(const tidemark_state *state, tidemark_state **clone, tidemark_error *error) {
    size_t capacity = tidemark_state_count(state);
    tidemark_mark *marks = tidemark_malloc(capacity * sizeof *marks + 1);
    uint32_t *shards = tidemark_malloc(capacity * sizeof *shards + 1);
    int result;
    if (marks != NULL && shards != NULL) {
        size_t count = tidemark_state_snapshot(state, marks, capacity);
        for (size_t i = 0; i < count; i++) shards[i] = marks[i].shard;
        result = tidemark_state_new(shards, count, clone, error);
        if (result == 0) (void)tidemark_state_advance_all(*clone, marks, count, NULL);
    } else {
        result = tidemark_fail(error, TIDEMARK_ENOMEM, "no memory to clone %zu shards", capacity);
    }
    tidemark_free(marks);
    tidemark_free(shards);
    return result;
}

tidemark_state *tidemark_state_retain(tidemark_state *state) {
    atomic_fetch_add_explicit(&state->references, 1, memory_order_relaxed);
    return state;
}

void tidemark_state_release(tidemark_state *state) {
    if (state == NULL || atomic_fetch_sub_explicit(&state->references, 1, memory_order_acq_rel) != 1) return;
    if (state->file != NULL) state->close_file(state->file);
    tidemark_watches_free(state);
    tidemark_free(state->block);
}

/* ---- marks ---- */

int64_t tidemark_state_applied_seqno(const tidemark_state *state, uint32_t shard) {
    struct tidemark_slot *slot = tidemark_state_slot(state, shard);
    return slot != NULL ? tidemark_slot_read(slot) : tidemark_fail_shard(NULL, shard);
}

int tidemark_state_advance(tidemark_state *state, uint32_t shard, int64_t seqno) {
    struct tidemark_slot *slot = tidemark_state_slot(state, shard);
    if (slot == NULL) return tidemark_fail_shard(NULL, shard);
    if (seqno < 0) return TIDEMARK_EINVAL;
    if (state->readonly) return TIDEMARK_EREADONLY;
    return tidemark_state_advance_slot(state, slot, seqno);
}

int tidemark_state_check_marks(const tidemark_state *state, const tidemark_mark *marks, size_t count,
                               tidemark_error *error) {
    for (size_t i = 0; i < count; i++) {
        if (marks[i].seqno < 0)
            return tidemark_fail(error, TIDEMARK_EINVAL, "shard %" PRIu32 ": seqno out of range: %" PRId64,
                                 marks[i].shard, marks[i].seqno);
        if (tidemark_state_slot(state, marks[i].shard) == NULL) return tidemark_fail_shard(error, marks[i].shard);
    }
    return 0;
}

int tidemark_state_advance_all(tidemark_state *state, const tidemark_mark *marks, size_t count, tidemark_error *error) {
    int result = tidemark_state_check_marks(state, marks, count, error);
    if (result < 0) return result;
    if (state->readonly) return tidemark_fail(error, TIDEMARK_EREADONLY, "the state was opened to read");
    int moved = 0;
    for (size_t i = 0; i < count; i++)
        moved += tidemark_state_advance_slot(state, tidemark_state_slot(state, marks[i].shard), marks[i].seqno);
    return moved;
}

size_t tidemark_state_count(const tidemark_state *state) {
    if (state->present == NULL) return state->count;
    size_t count = 0;
    for (uint32_t word = 0; word < TIDEMARK_SHARDS / 64; word++)
        count += (size_t)__builtin_popcountll(atomic_load_explicit(&state->present[word], memory_order_acquire));
    return count;
}

/* The position of the first slot in memory whose shard is above `after`. */
static uint32_t position_above(const tidemark_state *state, int after) {
    if (after < 0) return 0;
    if ((uint32_t)after < state->index_size && state->slots[state->index[after]].shard == (uint32_t)after)
        return state->index[after] + 1u;
    uint32_t low = 0, high = state->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (state->slots[middle].shard > (uint32_t)after) high = middle;
        else low = middle + 1;
    }
    return low;
}

int tidemark_state_next(const tidemark_state *state, int after) {
    if (state->present == NULL) {
        uint32_t position = position_above(state, after);
        return position < state->count ? (int)state->slots[position].shard : -1;
    }
    uint32_t shard = after < 0 ? 0 : (uint32_t)after + 1;
    if (shard > TIDEMARK_SHARD_MAX) return -1;
    uint64_t mask = ~(uint64_t)0 << (shard % 64); /* hides the bits below `shard` in its own word */
    for (uint32_t word = shard / 64; word < TIDEMARK_SHARDS / 64; word++) {
        uint64_t bits = atomic_load_explicit(&state->present[word], memory_order_acquire) & mask;
        if (bits != 0) return (int)(word * 64) + __builtin_ctzll(bits);
        mask = ~(uint64_t)0;
    }
    return -1;
}

/* Of a state in files. A function of its own: its registers are not to be saved for a state in memory. */
static __attribute__((noinline)) size_t snapshot_present(const tidemark_state *state, tidemark_mark *marks,
                                                         size_t capacity) {
    size_t count = 0;
    for (int shard = tidemark_state_next(state, -1); shard >= 0 && count < capacity;
         shard = tidemark_state_next(state, shard)) {
        marks[count].shard = (uint32_t)shard;
        marks[count++].seqno = tidemark_slot_read(&state->slots[shard]);
    }
    return count;
}

size_t tidemark_state_snapshot(const tidemark_state *state, tidemark_mark *marks, size_t capacity) {
    if (state->present != NULL) return snapshot_present(state, marks, capacity);
    struct tidemark_slot *slots = state->slots;
    size_t count = state->count < capacity ? state->count : capacity;
    for (size_t i = 0; i < count; i++) marks[i] = (tidemark_mark){slots[i].shard, tidemark_slot_read(&slots[i])};
    return count;
}
