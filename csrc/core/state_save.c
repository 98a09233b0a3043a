/*
 * Saving: the marks and notes of a state become a checkpoint in its file.
 *
 * Invariants:
 *  - The slot that live->saved_slot names has been synced with its present bytes (unless live->unsynced is set: then it
 * was loaded, and the first save syncs it, or the generations differ: then a save was cut short, and the next one
 * does). A save writes the other slot and only afterwards, when that is synced, says so in the live header. So between
 * any two system calls one slot holds the last acknowledged checkpoint, whatever becomes of the other.
 *  - live->saving_generation is set before a slot of that generation is written. So PATH's generation is one of the two
 * in the live header, or PATH is not the file that the live file belongs to.
 */
#define _XOPEN_SOURCE 700
#include "state_save.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "error.h"
#include "notes.h"

int tidemark_file_check_process(const struct tidemark_file *file, tidemark_error *error) {
    if (file->process == getpid()) return 0;
    return tidemark_fail(error, TIDEMARK_EFORKED,
                         "%s: opened by process %ld, which forked this one: close the state here and open it again",
                         file->path, (long)file->process);
}

/* ---- the kept notes ---- */

static void keep_notes(struct tidemark_file *file, unsigned char *notes, size_t size, uint64_t generation) {
    tidemark_free(file->notes);
    file->notes = notes;
    file->notes_size = size;
    file->notes_generation = generation;
}

int tidemark_file_copy_notes(struct tidemark_file *file, const struct tidemark_checkpoint *checkpoint,
                             tidemark_error *error) {
    unsigned char *copy;
    size_t size;
    if (!tidemark_notes_merge(checkpoint->notes, checkpoint->notes_size, NULL, 0, &copy, &size))
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for its notes", file->path);
    keep_notes(file, copy, size, checkpoint->generation);
    return 0;
}

/* ---- the steps of a save ---- */

/* A sync has failed: what the disk holds is not known, and a second sync could succeed without having written it. */
static int poison(struct tidemark_file *file, tidemark_error *error) {
    int code = tidemark_file_fail_io(
        file, "sync failed, so nothing can be saved until all who have it open have closed it", error);
    atomic_store(&file->live->poisoned, 1);
    return code;
}

static int check_saving(struct tidemark_file *file, tidemark_error *error) {
    unsigned char id[16];
    int current = tidemark_file_is_current(file, file->name, file->fd, error);
    int live_current = current == 1 ? tidemark_file_is_current(file, file->live_name, file->live_fd, error) : current;
    if (live_current < 0) return live_current;
    if (!live_current)
        return tidemark_fail(error, TIDEMARK_EREPLACED,
                             "%s%s: was deleted or replaced since it was opened: close the state and open it again",
                             file->path, current ? ".live" : "");
    /* another file may have been copied over it in place */
    int result = tidemark_checkpoint_file_id(file->io, file->fd, file->path, id, error);
    if (result < 0) return result;
    if (memcmp(id, file->id, sizeof id) != 0)
        return tidemark_fail(error, TIDEMARK_EREPLACED,
                             "%s: was overwritten with another state since it was opened: close the state and open it "
                             "again",
                             file->path);
    if (atomic_load(&file->live->poisoned))
        return tidemark_fail(
            error, TIDEMARK_EPOISONED,
            "%s: an earlier sync failed: close the state in every process, look at the disk, and open it again",
            file->path);
    return 0;
}

/* Makes the newest checkpoint in PATH the last durable one. Needed at the first save of all who are attached, for what
 * was loaded may stand in the page cache only, as may the file's name in its directory; and after a save that did not
 * come to its end, for it may have left a whole slot of its generation, which the live header would not name any more
 * once the next save has begun. */
static int settle(struct tidemark_file *file, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    struct tidemark_live *live = file->live;
    int result = tidemark_checkpoint_file_load(file->io, file->fd, file->path, file->id, &checkpoint, error);
    if (result < 0) return result;
    if (tidemark_io_write(file->io, file->fd, checkpoint.block, checkpoint.block_size,
                          tidemark_slot_offset(checkpoint.number)) < 0)
        result = tidemark_file_fail_io(file, "cannot write the checkpoint that was loaded", error);
    else if (file->io->fsync(file->fd) < 0 || file->io->fsync(file->directory) < 0) result = poison(file, error);
    tidemark_checkpoint_clear(&checkpoint);
    if (result < 0) return result;
    atomic_store(&live->saved_slot, checkpoint.number);
    atomic_store(&live->saved_generation, checkpoint.generation);
    atomic_store(&live->unsynced, 0);
    return 0;
}

/* Makes the kept notes those of the last durable checkpoint, which may be another process's. */
static int refresh_notes(struct tidemark_file *file, tidemark_error *error) {
    struct tidemark_checkpoint checkpoint;
    if (file->live == NULL || file->notes_generation == atomic_load(&file->live->saved_generation)) return 0;
    int result = tidemark_checkpoint_file_load_slot(file->io, file->fd, file->path, file->id,
                                                    atomic_load(&file->live->saved_slot), &checkpoint, error);
    if (result < 0) return result;
    result = tidemark_file_copy_notes(file, &checkpoint, error);
    tidemark_checkpoint_clear(&checkpoint);
    return result;
}

/* Writes zeros where slot `number` was never written so far, and syncs them: then a save only overwrites. */
static int prepare(struct tidemark_file *file, unsigned number, uint32_t size, tidemark_error *error) {
    uint32_t prepared = atomic_load(&file->live->prepared[number]);
    off_t offset = tidemark_slot_offset(number);
    if (size <= prepared) return 0;
    if (size < 2 * prepared) size = 2 * prepared <= TIDEMARK_SLOT_SIZE ? 2 * prepared : TIDEMARK_SLOT_SIZE;
    if (tidemark_io_zero(file->io, file->fd, offset + prepared, offset + size) < 0)
        return tidemark_file_fail_io(file, "no room for the checkpoint", error);
    if (file->io->fdatasync(file->fd) < 0) return poison(file, error);
    atomic_store(&file->live->prepared[number], size);
    return 0;
}

/* Writes `block`, a slot that is sealed here, to the slot that is not the last durable one. */
static int write_checkpoint(struct tidemark_file *file, unsigned char *block, uint32_t bytes_size, size_t notes_size,
                            uint64_t *generation, tidemark_error *error) {
    struct tidemark_live *live = file->live;
    unsigned number = !atomic_load(&live->saved_slot);
    uint32_t size = tidemark_slot_block_size(bytes_size + notes_size);
    int result = prepare(file, number, size, error);
    if (result < 0) return result;
    *generation = atomic_load(&live->saving_generation) + 1;
    tidemark_checkpoint_seal(block, file->id, *generation, bytes_size, (uint32_t)notes_size);
    atomic_store(&live->saving_generation, *generation);
    if (tidemark_io_write(file->io, file->fd, block, size, tidemark_slot_offset(number)) < 0)
        return tidemark_file_fail_io(file, "cannot write the checkpoint", error);
    if (file->io->fdatasync(file->fd) < 0) return poison(file, error);
    atomic_store(&live->saved_slot, number);
    atomic_store(&live->saved_generation, *generation);
    return 0;
}

unsigned char *tidemark_file_new_block(const tidemark_state *state, const unsigned char *notes, size_t notes_size,
                                       uint32_t *bytes_size) {
    size_t room = TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(state));
    unsigned char *block = tidemark_calloc(1, tidemark_slot_block_size(room + notes_size));
    if (block == NULL) return NULL;
    /* fits: shards are added under the save lock only */
    *bytes_size = (uint32_t)tidemark_state_to_checkpoint_bytes(state, (char *)block + 64, room);
    if (notes_size > 0) memcpy(block + 64 + *bytes_size, notes, notes_size);
    return block;
}

int tidemark_file_save(tidemark_state *state, const tidemark_note *notes, size_t count, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    unsigned char *merged = NULL, *block = NULL;
    size_t merged_size = 0;
    uint32_t bytes_size;
    uint64_t generation;
    int result = check_saving(file, error);
    if (result == 0 && (atomic_load(&file->live->unsynced) ||
                        atomic_load(&file->live->saved_generation) != atomic_load(&file->live->saving_generation)))
        result = settle(file, error);
    if (result == 0) result = refresh_notes(file, error);
    if (result < 0) return result;

    if (tidemark_notes_merge(file->notes, file->notes_size, notes, count, &merged, &merged_size))
        block = tidemark_file_new_block(state, merged, merged_size, &bytes_size);
    if (block == NULL) {
        tidemark_free(merged);
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory for a checkpoint", file->path);
    }
    result = write_checkpoint(file, block, bytes_size, merged_size, &generation, error);
    tidemark_free(block);
    if (result == 0) keep_notes(file, merged, merged_size, generation);
    else tidemark_free(merged);
    return result;
}

int tidemark_state_checkpoint(tidemark_state *state, const tidemark_note *notes, size_t count, tidemark_error *error) {
    struct tidemark_file *file = state->file;
    if (file == NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "a state in memory has no file to checkpoint to");
    for (size_t i = 0; i < count; i++) {
        if (notes[i].length > TIDEMARK_NOTE_MAX)
            return tidemark_fail(error, TIDEMARK_EINVAL,
                                 "shard %" PRIu32 ": a note of %" PRIu32 " bytes, at most %d fit", notes[i].shard,
                                 notes[i].length, TIDEMARK_NOTE_MAX);
        if (tidemark_state_slot(state, notes[i].shard) == NULL) return tidemark_fail_shard(error, notes[i].shard);
    }
    if (state->readonly)
        return tidemark_fail(error, TIDEMARK_EREADONLY, "%s: the state was opened to read", file->path);
    int result = tidemark_file_check_process(file, error);
    if (result < 0) return result;
    (void)pthread_mutex_lock(&file->mutex);
    if (tidemark_io_lock(file->io, file->fd, F_WRLCK, LOCK_SAVE, true) < 0) {
        result = tidemark_file_fail_io(file, "cannot lock it", error);
    } else {
        result = tidemark_file_save(state, notes, count, error);
        (void)tidemark_io_lock(file->io, file->fd, F_UNLCK, LOCK_SAVE, false);
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return result;
}

int tidemark_state_note(tidemark_state *state, uint32_t shard, char note[TIDEMARK_NOTE_MAX], tidemark_error *error) {
    struct tidemark_file *file = state->file;
    const unsigned char *bytes;
    if (file == NULL)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED, "a state in memory has no checkpoint and no notes");
    if (shard > TIDEMARK_SHARD_MAX) return tidemark_fail_shard(error, shard);
    int result = tidemark_file_check_process(file, error);
    if (result < 0) return result;
    (void)pthread_mutex_lock(&file->mutex);
    if (tidemark_io_lock(file->io, file->fd, F_RDLCK, LOCK_SAVE, true) < 0) {
        result = tidemark_file_fail_io(file, "cannot lock it", error);
    } else {
        result = refresh_notes(file, error);
        (void)tidemark_io_lock(file->io, file->fd, F_UNLCK, LOCK_SAVE, false);
    }
    if (result == 0) {
        result = tidemark_notes_find(file->notes, file->notes_size, shard, &bytes);
        if (result > 0) memcpy(note, bytes, (size_t)result);
        if (result < 0)
            result = tidemark_fail(error, TIDEMARK_ENOT_FOUND, "%s: no note for shard %" PRIu32, file->path, shard);
    }
    (void)pthread_mutex_unlock(&file->mutex);
    return result;
}
