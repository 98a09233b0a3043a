/* PATH.live: making, checking and mapping it, adding shards. */
#define _XOPEN_SOURCE 700 /* sysconf, mmap */
#include "live_file.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define VERSION 1

#define IDENTITY_SIZE offsetof(struct tidemark_live, saved_generation)

/* The first bytes of a live file: "TMLIVE01", version, ids, device and inode. */
static void fill_identity(unsigned char bytes[IDENTITY_SIZE], const struct tidemark_live_identity *identity,
                          const struct stat *status) {
    uint32_t version = VERSION;
    uint64_t device = (uint64_t)status->st_dev, inode = (uint64_t)status->st_ino;
    memset(bytes, 0, IDENTITY_SIZE);
    memcpy(bytes, "TMLIVE01", 8);
    memcpy(bytes + offsetof(struct tidemark_live, version), &version, sizeof version);
    memcpy(bytes + offsetof(struct tidemark_live, id), identity->id, sizeof identity->id);
    memcpy(bytes + offsetof(struct tidemark_live, boot), identity->boot, sizeof identity->boot);
    memcpy(bytes + offsetof(struct tidemark_live, device), &device, sizeof device);
    memcpy(bytes + offsetof(struct tidemark_live, inode), &inode, sizeof inode);
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
    unsigned char found[IDENTITY_SIZE], wanted[IDENTITY_SIZE];
    if (io->fstat(fd, &status) < 0) return tidemark_io_fail(error, path, ".live", "cannot read its status");
    if (status.st_size != (off_t)sizeof(struct tidemark_live)) return 1;
    /* Not through a mapping: whoever made it may have been stopped before it had space, and then touching it can be a
     * SIGBUS. */
    if (tidemark_io_read(io, fd, found, sizeof found, 0) < 0)
        return tidemark_io_fail(error, path, ".live", "cannot read it");
    fill_identity(wanted, identity, &status);
    return memcmp(found, wanted, sizeof found) == 0 ? map(io, fd, path, readonly, result, error) : 1;
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
    unsigned char bytes[IDENTITY_SIZE];
    off_t unit = unit_size(), used = offsetof(struct tidemark_live, present) + sizeof(*result)->present;
    if (io->ftruncate(fd, sizeof(struct tidemark_live)) < 0 ||
        tidemark_io_zero(io, fd, 0, (used + unit - 1) / unit * unit) < 0)
        return tidemark_io_fail(error, path, ".live", "cannot write it");
    if (io->fstat(fd, &status) < 0) return tidemark_io_fail(error, path, ".live", "cannot read its status");
    fill_identity(bytes, identity, &status);
    if (tidemark_io_write(io, fd, bytes, sizeof bytes, 0) < 0)
        return tidemark_io_fail(error, path, ".live", "cannot write it");
    return map(io, fd, path, false, result, error);
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
