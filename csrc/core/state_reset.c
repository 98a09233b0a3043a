/*
 * Reset: the only function that lowers a mark.
 *
 * With the change lock, both attach locks (exclusive) and the save lock, in this order:
 *  1. A checkpoint. From here on PATH has every mark of the live file.
 *  2. The live file is unlinked. PATH alone now decides what the next opening finds: the old mark.
 *  3. Both slots are written and synced, one after the other, with the lower mark and its note. The first
 *     one that is whole makes it the new mark. The second one leaves no slot with the old mark.
 *  4. A new live file is made from the last slot.
 *
 * The unlinked live file has the old mark. Nothing may ever trust it beside a slot with the new one, also
 * if it gets its name back, for instance from a hard link. So its generations stay those of step 1, and it
 * is poisoned if a later step fails: then no save through this state can follow.
 */
#define _XOPEN_SOURCE 700
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "error.h"
#include "notes.h"
#include "state_save.h"

struct reset {
    uint32_t shard;
    int64_t seqno;
    const tidemark_note *note; /* NULL: none */
    const tidemark_note *kept; /* what `note` was made from; NULL: none; &unchecked: not known */
};

static const tidemark_note unchecked;

/* A sealed slot is made of this. */
struct block {
    unsigned char *bytes;
    uint32_t marks_size;
    size_t notes_size;
};

/* A live file as a struct tidemark_file has it open. */
struct opened {
    struct tidemark_live *live;
    int fd;
};

/* ---- conditions ---- */

static const char *name_of(const tidemark_state *state) {
    return state->file != NULL ? state->file->path : "a state in memory";
}

static int check_arguments(const tidemark_state *state, const struct reset *reset, tidemark_error *error) {
    const tidemark_note *note = reset->note;
    if (reset->seqno < 0) return tidemark_fail(error, TIDEMARK_EINVAL, "seqno out of range: %" PRId64, reset->seqno);
    if (note != NULL && note->length > TIDEMARK_NOTE_MAX)
        return tidemark_fail(error, TIDEMARK_EINVAL, "shard %" PRIu32 ": a note of %" PRIu32 " bytes, at most %d fit",
                             note->shard, note->length, TIDEMARK_NOTE_MAX);
    if (note != NULL && note->shard != reset->shard)
        return tidemark_fail(error, TIDEMARK_EINVAL, "a note of shard %" PRIu32 " for a reset of shard %" PRIu32,
                             note->shard, reset->shard);
    const struct tidemark_slot *slot = tidemark_state_slot(state, reset->shard);
    if (slot == NULL) return tidemark_fail_shard(error, reset->shard);
    if (state->readonly)
        return tidemark_fail(error, TIDEMARK_EREADONLY, "%s: the state was opened to read", name_of(state));
    if (state->file == NULL && note != NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "a state in memory has no notes");
    int64_t mark = tidemark_state_applied_seqno(state, reset->shard);
    if (reset->seqno > mark)
        return tidemark_fail(error, TIDEMARK_EINVAL,
                             "%s: shard %" PRIu32 " cannot be reset to %" PRId64 ", which is above its mark %" PRId64,
                             name_of(state), reset->shard, reset->seqno, mark);
    return state->file != NULL ? tidemark_file_check_process(state->file, error) : 0;
}

/* That nobody else in this process uses the state. Others who have the files open: lock_all. */
static int check_unused(const tidemark_state *state, tidemark_error *error) {
    /* acquire: pairs with the releases, so that what other threads did with their references comes first */
    size_t references = atomic_load_explicit(&state->references, memory_order_acquire);
    assert(references > 0);
    if (references > 1)
        return tidemark_fail(error, TIDEMARK_EBUSY,
                             "%s: %zu other references to the state are in use in this process (handles, bound "
                             "functions, watches): close them first",
                             name_of(state), references - 1);
    uint32_t words = state->present != NULL ? TIDEMARK_SHARDS / 64 : (state->index_size + 63) / 64;
    for (uint32_t word = 0; word < words; word++) {
        uint64_t bits = atomic_load(&state->followed[word]);
        if (bits == 0) continue;
        return tidemark_fail(error, TIDEMARK_ELOCKED,
                             "%s: shard %" PRIu32 " has a follower in this process: end it first", name_of(state),
                             word * 64 + (uint32_t)__builtin_ctzll(bits));
    }
    return 0;
}

/* ---- locks ---- */

/* Change, attach and save, all exclusive; unlock_all is needed after an error, too. EBUSY, EIO. */
static int lock_all(const struct tidemark_file *file, tidemark_error *error) {
    const int attached[2] = {file->fd, file->live_fd};
    if (tidemark_io_lock(file->io, file->fd, F_WRLCK, LOCK_CHANGE, true) < 0)
        return tidemark_file_fail_io(file, "cannot lock it", error);
    for (int i = 0; i < 2; i++) {
        if (tidemark_io_lock(file->io, attached[i], F_WRLCK, LOCK_ATTACH, false) == 0) continue;
        if (errno != EAGAIN && errno != EACCES) return tidemark_file_fail_io(file, "cannot lock it", error);
        return tidemark_fail(error, TIDEMARK_EBUSY,
                             "%s: the state is open elsewhere, in another process or in this one: close it there first",
                             file->path);
    }
    if (tidemark_io_lock(file->io, file->fd, F_WRLCK, LOCK_SAVE, true) < 0)
        return tidemark_file_fail_io(file, "cannot lock it", error);
    return 0;
}

/* Leaves the shared attach locks of an open state, on the live file that `file` has now. Tries all: 0, or -1. */
static int unlock_all(const struct tidemark_file *file) {
    int result = 0;
    if (tidemark_io_lock(file->io, file->live_fd, F_RDLCK, LOCK_ATTACH, false) < 0) result = -1;
    if (tidemark_io_lock(file->io, file->fd, F_RDLCK, LOCK_ATTACH, false) < 0) result = -1;
    if (tidemark_io_lock(file->io, file->fd, F_UNLCK, LOCK_SAVE, false) < 0) result = -1;
    if (tidemark_io_lock(file->io, file->fd, F_UNLCK, LOCK_CHANGE, false) < 0) result = -1;
    return result;
}

/* ---- the steps ---- */

/* Whether the kept note of the shard, as the last checkpoint has it, is `note` (NULL: none). */
static bool keeps_note(const struct tidemark_file *file, uint32_t shard, const tidemark_note *note) {
    const unsigned char *bytes;
    int length = tidemark_notes_find(file->notes, file->notes_size, shard, &bytes);
    if (length < 0 || note == NULL) return length < 0 && note == NULL;
    return (uint32_t)length == note->length && (length == 0 || memcmp(bytes, note->bytes, note->length) == 0);
}

/* Before anything is changed: what both slots will hold. Made from a copy, since who follows the live file
 * must not see its mark decrease. ENOMEM. */
static int make_block(const tidemark_state *state, const struct reset *reset, struct block *block,
                      tidemark_error *error) {
    const struct tidemark_file *file = state->file;
    tidemark_state *copy;
    unsigned char *notes = NULL;
    size_t count = reset->note != NULL;
    int result = tidemark_state_clone(state, &copy, error);
    if (result < 0) return result;
    atomic_store(&tidemark_state_slot(copy, reset->shard)->mark, reset->seqno);
    block->bytes = NULL;
    if (tidemark_notes_merge(file->notes, file->notes_size, reset->note, count, &notes, &block->notes_size)) {
        if (count == 0) block->notes_size = tidemark_notes_drop(notes, block->notes_size, reset->shard);
        block->bytes = tidemark_file_new_block(copy, notes, block->notes_size, &block->marks_size);
    }
    tidemark_free(notes);
    tidemark_state_release(copy);
    if (block->bytes == NULL)
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for a checkpoint", file->path);
    return 0;
}

/* Step 3: first the slot that step 1 has not written, then the other one, saved_slot. The live header, which
 * is that of the unlinked file, does not learn of it. */
static int write_both(const struct tidemark_file *file, const struct block *block, tidemark_error *error) {
    uint64_t generation = atomic_load(&file->live->saving_generation);
    uint32_t size = tidemark_slot_block_size(block->marks_size + block->notes_size);
    unsigned number = atomic_load(&file->live->saved_slot);
    assert(generation == atomic_load(&file->live->saved_generation));
    for (int i = 0; i < 2; i++) {
        number = !number;
        tidemark_checkpoint_seal(block->bytes, file->id, ++generation, block->marks_size, (uint32_t)block->notes_size);
        if (tidemark_io_write(file->io, file->fd, block->bytes, size, tidemark_slot_offset(number)) < 0)
            return tidemark_file_fail_io(file, "cannot write the lower mark", error);
        if (file->io->fdatasync(file->fd) < 0)
            return tidemark_file_fail_io(file, "sync failed, the mark may be the lower one or not", error);
    }
    return 0;
}

static void close_live(const struct tidemark_file *file, struct opened opened) {
    if (opened.live != NULL) (void)file->io->munmap(opened.live, sizeof *opened.live);
    if (opened.fd >= 0) (void)file->io->close(opened.fd);
}

/* Drops the new live file, whole or not, and takes back the old one, which is unlinked. */
static void take_back(struct tidemark_file *file, struct opened old) {
    if (file->live != old.live) close_live(file, (struct opened){file->live, file->live_fd});
    file->live = old.live;
    file->live_fd = old.fd;
    atomic_store(&old.live->poisoned, 1);
}

/* Step 4, from the slot that step 3 has written last. */
static int make_live(struct tidemark_file *file, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    unsigned number = atomic_load(&file->live->saved_slot);
    int result =
        tidemark_checkpoint_file_load_slot(file->io, file->fd, file->path, file->id, number, &checkpoint, error);
    if (result < 0) return result;
    file->live = NULL;
    file->live_fd = -1;
    result = tidemark_file_new_live(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    return result;
}

/* Steps 2 to 4. On success `file` has the new live file, and the old one is left to the caller. */
static int replace(struct tidemark_file *file, const struct block *block, tidemark_error *error) {
    const struct opened old = {file->live, file->live_fd};
    if (file->io->unlinkat(file->directory, file->live_name, 0) < 0)
        return tidemark_io_fail(error, file->path, ".live", "cannot remove it");
    int result = write_both(file, block, error);
    if (result == 0) result = make_live(file, error);
    if (result < 0) take_back(file, old);
    return result;
}

/* With mutex and locks. */
static int reset_locked(tidemark_state *state, const struct reset *reset, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    struct block block;
    int result = tidemark_file_save(state, NULL, 0, error);
    if (result < 0) return result;
    if (reset->kept != &unchecked && !keeps_note(file, reset->shard, reset->kept))
        return tidemark_fail(error, TIDEMARK_EBUSY,
                             "%s: somebody else has just changed the note of shard %" PRIu32 ": try again", file->path,
                             reset->shard);
    /* it is so already: the second save makes it so in both slots, as after a reset */
    if (tidemark_state_applied_seqno(state, reset->shard) == reset->seqno &&
        keeps_note(file, reset->shard, reset->note))
        return tidemark_file_save(state, NULL, 0, error);
    result = make_block(state, reset, &block, error);
    if (result < 0) return result;
    result = replace(file, &block, error);
    tidemark_free(block.bytes);
    return result;
}

/* The locks are let go before the new live file counts, so that nothing can fail after that. */
static int reset_file(tidemark_state *state, const struct reset *reset, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    const struct opened old = {file->live, file->live_fd};
    (void)pthread_mutex_lock(&file->mutex);
    int result = lock_all(file, error);
    if (result == 0) result = reset_locked(state, reset, error);
    if (unlock_all(file) < 0 && result == 0) {
        result = tidemark_file_fail_io(file, "cannot unlock it", error);
        if (file->live != old.live) take_back(file, old);
        (void)unlock_all(file);
    }
    if (file->live != old.live) {
        close_live(file, old);
        state->slots = file->live->slots;
        state->present = file->live->present;
        state->event = &file->live->event;
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return result;
}

int tidemark_state_reset_from(tidemark_state *state, uint32_t shard, int64_t seqno, const tidemark_note *kept,
                              const tidemark_note *note, tidemark_error *error) {
    const struct reset reset = {shard, seqno, note, kept};
    int result = check_arguments(state, &reset, error);
    if (result == 0) result = check_unused(state, error);
    if (result < 0) return result;
    if (state->file != NULL) return reset_file(state, &reset, error);
    atomic_store(&tidemark_state_slot(state, shard)->mark, seqno);
    return 0;
}

int tidemark_state_reset(tidemark_state *state, uint32_t shard, int64_t seqno, const tidemark_note *note,
                         tidemark_error *error) {
    return tidemark_state_reset_from(state, shard, seqno, &unchecked, note, error);
}
