/* PATH.live: making, checking and mapping it, adding shards. */
#define _XOPEN_SOURCE 700 /* sysconf, mmap */
#include "live_file.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define VERSION 1

/* "TMLIVE01" as the machine reads it */
static uint64_t magic_word(void) {
    uint64_t word;
    memcpy(&word, "TMLIVE01", sizeof word);
    return word;
}

static int map(const struct tidemark_io *io, int fd, const char *path, bool readonly, struct tidemark_live **live,
               tidemark_error *error) {
    int protection = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    void *address = io->mmap(NULL, sizeof(struct tidemark_live), protection, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) return tidemark_io_fail(error, path, ".live", "cannot map it");
    *live = address;
    return 0;
}

int tidemark_live_map(const struct tidemark_io *io, int fd, const char *path,
                      const struct tidemark_live_identity *identity, bool readonly, struct tidemark_live **result,
                      tidemark_error *error) {
    struct stat status;
    struct tidemark_live *live = NULL;
    if (io->fstat(fd, &status) < 0) return tidemark_io_fail(error, path, ".live", "cannot read its status");
    if (status.st_size != (off_t)sizeof *live) return 1;
    int mapped = map(io, fd, path, readonly, &live, error);
    if (mapped < 0) return mapped;
    if (atomic_load_explicit(&live->magic, memory_order_acquire) == magic_word() && live->version == VERSION &&
        memcmp(live->id, identity->id, sizeof live->id) == 0 &&
        memcmp(live->boot, identity->boot, sizeof live->boot) == 0 && live->device == (uint64_t)status.st_dev &&
        live->inode == (uint64_t)status.st_ino) {
        *result = live;
        return 0;
    }
    (void)io->munmap(live, sizeof *live);
    return 1;
}

/* Space is given out in units of whole pages, so that no unit is shared with slots that are in use. */
static off_t unit_size(void) {
    long page = sysconf(_SC_PAGESIZE);
    return page > 4096 && page <= 65536 ? page : 4096;
}

int tidemark_live_make(const struct tidemark_io *io, int fd, const char *path,
                       const struct tidemark_live_identity *identity, struct tidemark_live **result,
                       tidemark_error *error) {
    struct stat status;
    struct tidemark_live *live = NULL;
    off_t unit = unit_size(), used = offsetof(struct tidemark_live, present) + sizeof live->present;
    if (io->ftruncate(fd, sizeof *live) < 0 || tidemark_io_zero(io, fd, 0, (used + unit - 1) / unit * unit) < 0)
        return tidemark_io_fail(error, path, ".live", "cannot write it");
    if (io->fstat(fd, &status) < 0) return tidemark_io_fail(error, path, ".live", "cannot read its status");
    int mapped = map(io, fd, path, false, &live, error);
    if (mapped < 0) return mapped;
    live->version = VERSION;
    memcpy(live->id, identity->id, sizeof live->id);
    memcpy(live->boot, identity->boot, sizeof live->boot);
    live->device = (uint64_t)status.st_dev;
    live->inode = (uint64_t)status.st_ino;
    atomic_store_explicit(&live->magic, magic_word(), memory_order_release);
    *result = live;
    return 0;
}

int tidemark_live_add(const struct tidemark_io *io, int fd, const char *path, struct tidemark_live *live,
                      const uint64_t wanted[TIDEMARK_SHARDS / 64], tidemark_error *error) {
    off_t unit = unit_size();
    unsigned words =
        (unsigned)(unit / (64 * (off_t)sizeof(struct tidemark_slot))); /* of the presence map, for one unit */
    for (unsigned first = 0; first < TIDEMARK_SHARDS / 64; first += words) {
        uint64_t have = 0, want = 0;
        for (unsigned word = first; word < first + words; word++) {
            have |= atomic_load_explicit(&live->present[word], memory_order_relaxed);
            want |= wanted[word];
        }
        if (want == 0 || have != 0) continue; /* nothing to add, or the unit was written with its first shard */
        off_t start = (off_t)(offsetof(struct tidemark_live, slots) + first * 64 * sizeof(struct tidemark_slot));
        if (tidemark_io_zero(io, fd, start, start + unit) < 0)
            return tidemark_io_fail(error, path, ".live", "no room for more shards");
    }
    for (unsigned word = 0; word < TIDEMARK_SHARDS / 64; word++) {
        if (wanted[word] != 0) atomic_fetch_or_explicit(&live->present[word], wanted[word], memory_order_release);
    }
    return 0;
}
