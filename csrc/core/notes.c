/* Notes: a count, an index in ascending order of shard, the bytes. The index has entries of one size, so a note is
 * found by bisection. */
#include "notes.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "io.h"

#define ENTRY 8 /* bytes */

static uint32_t count_of(const unsigned char *notes, size_t size) {
    return size == 0 ? 0 : tidemark_get32(notes);
}

static tidemark_note entry_at(const unsigned char *notes, uint32_t position) {
    const unsigned char *entry = notes + 4 + (size_t)position * ENTRY,
                        *bytes = notes + 4 + (size_t)tidemark_get32(notes) * ENTRY;
    return (tidemark_note){tidemark_get16(entry), tidemark_get16(entry + 2), bytes + tidemark_get32(entry + 4)};
}

bool tidemark_notes_valid(const unsigned char *notes, size_t size) {
    if (size == 0) return true;
    if (size < 4 || tidemark_get32(notes) > TIDEMARK_SHARD_MAX + 1) return false;
    uint32_t count = tidemark_get32(notes);
    size_t index_size = 4 + (size_t)count * ENTRY, next = 0;
    if (size < index_size) return false;
    for (uint32_t i = 0; i < count; i++) {
        const unsigned char *entry = notes + 4 + (size_t)i * ENTRY;
        if (i > 0 && tidemark_get16(entry) <= tidemark_get16(entry - ENTRY)) return false;
        if (tidemark_get16(entry + 2) > TIDEMARK_NOTE_MAX || tidemark_get32(entry + 4) != next) return false;
        next += tidemark_get16(entry + 2);
    }
    return size == index_size + next;
}

/* The position of the shard's entry, or -1. */
static int64_t position_of(const unsigned char *notes, size_t size, uint32_t shard) {
    uint32_t low = 0, high = count_of(notes, size);
    while (low < high) {
        uint32_t middle = (low + high) / 2, found = entry_at(notes, middle).shard;
        if (found == shard) return middle;
        if (found < shard) low = middle + 1;
        else high = middle;
    }
    return -1;
}

int tidemark_notes_find(const unsigned char *notes, size_t size, uint32_t shard, const unsigned char **bytes) {
    int64_t position = position_of(notes, size, shard);
    if (position < 0) return -1;
    tidemark_note note = entry_at(notes, (uint32_t)position);
    *bytes = note.bytes;
    return (int)note.length;
}

/* By shard; equal ones in the order in which they lie in memory, so that sorting pointers keeps it. */
static int compare(const void *left, const void *right) {
    const tidemark_note *a = *(const tidemark_note *const *)left, *b = *(const tidemark_note *const *)right;
    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Writes at most `room` notes, the old ones and the sorted new ones merged; returns the end of what was written. */
static unsigned char *write_merged(unsigned char *out, uint32_t room, const unsigned char *old, uint32_t old_count,
                                   const tidemark_note **sorted, size_t count) {
    unsigned char *entry = out + 4, *bytes = entry + (size_t)room * ENTRY, *first = bytes;
    uint32_t i = 0;
    size_t j = 0;
    while (i < old_count || j < count) {
        tidemark_note note = {TIDEMARK_SHARD_MAX + 1, 0, NULL};
        if (i < old_count) note = entry_at(old, i);
        if (j < count && sorted[j]->shard <= note.shard) {
            if (i < old_count && note.shard == sorted[j]->shard) i++;
            note = *sorted[j++];
            while (j < count && sorted[j]->shard == note.shard) note = *sorted[j++];
        } else {
            i++;
        }
        tidemark_put16(entry, (uint16_t)note.shard);
        tidemark_put16(entry + 2, (uint16_t)note.length);
        tidemark_put32(entry + 4, (uint32_t)(bytes - first));
        if (note.length > 0) memcpy(bytes, note.bytes, note.length);
        entry += ENTRY;
        bytes += note.length;
    }
    /* there were fewer than `room` where notes replaced others: close the gap behind the index */
    memmove(entry, first, (size_t)(bytes - first));
    tidemark_put32(out, (uint32_t)((entry - out - 4) / ENTRY));
    return entry + (bytes - first);
}

bool tidemark_notes_merge(const unsigned char *old, size_t old_size, const tidemark_note *notes, size_t count,
                          unsigned char **merged, size_t *merged_size) {
    uint32_t old_count = count_of(old, old_size);
    size_t room = old_count + count;
    *merged = NULL;
    *merged_size = 0;
    if (room == 0) return true;
    size_t size = 4 + room * ENTRY + old_size;
    for (size_t i = 0; i < count; i++) size += notes[i].length;
    const tidemark_note **sorted = tidemark_malloc(count * sizeof *sorted + 1);
    unsigned char *out = tidemark_malloc(size);
    if (sorted != NULL && out != NULL) {
        for (size_t i = 0; i < count; i++) sorted[i] = &notes[i];
        qsort(sorted, count, sizeof *sorted, compare);
        *merged_size = (size_t)(write_merged(out, (uint32_t)room, old, old_count, sorted, count) - out);
        *merged = out;
    } else {
        tidemark_free(out);
    }
    tidemark_free(sorted);
    return *merged != NULL;
}

size_t tidemark_notes_drop(unsigned char *notes, size_t size, uint32_t shard) {
    int64_t position = position_of(notes, size, shard);
    uint32_t count = count_of(notes, size);
    if (position < 0) return size;
    if (count == 1) return 0;
    tidemark_note note = entry_at(notes, (uint32_t)position);
    unsigned char *entry = notes + 4 + (size_t)position * ENTRY, *end = notes + size;
    unsigned char *bytes = notes + ((const unsigned char *)note.bytes - notes);
    for (unsigned char *later = entry + ENTRY; later < notes + 4 + (size_t)count * ENTRY; later += ENTRY)
        tidemark_put32(later + 4, tidemark_get32(later + 4) - note.length);
    /* the bytes first, while the index is where entry_at has found them */
    memmove(bytes, bytes + note.length, (size_t)(end - bytes) - note.length);
    memmove(entry, entry + ENTRY, (size_t)(end - entry) - ENTRY - note.length);
    tidemark_put32(notes, count - 1);
    return size - ENTRY - note.length;
}
