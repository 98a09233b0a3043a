/* PATH, the durable checkpoint: making, checking and reading it. */
#define _XOPEN_SOURCE 700 /* O_NOFOLLOW, O_CLOEXEC */
#include "checkpoint_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>

#include "alloc.h"
#include "checkpoint.h"
#include "crc32c.h"
#include "error.h"
#include "notes.h"

#define VERSION   1
#define FILE_SIZE (TIDEMARK_BLOCK + 2 * TIDEMARK_SLOT_SIZE)
#define PAYLOAD   64 /* where a slot's payload starts */

static const char file_magic[8] = {'T', 'I', 'D', 'E', 'M', 'A', 'R', 'K'};
static const char slot_magic[8] = {'T', 'M', 'C', 'K', 'P', 'T', '0', '1'};

_Static_assert(PAYLOAD + TIDEMARK_CHECKPOINT_SIZE(TIDEMARK_SHARDS) + TIDEMARK_NOTES_SIZE + TIDEMARK_BLOCK <=
                   TIDEMARK_SLOT_SIZE,
               "the largest checkpoint fits a slot");

/* ---- making ---- */

void tidemark_checkpoint_seal(unsigned char *block, const unsigned char id[16], uint64_t generation,
                              uint32_t bytes_size, uint32_t notes_size) {
    memcpy(block, slot_magic, sizeof slot_magic);
    tidemark_put64(block + 8, generation);
    tidemark_put32(block + 16, bytes_size);
    tidemark_put32(block + 20, notes_size);
    memcpy(block + 32, id, 16);
    uint32_t crc = tidemark_crc32c(0, block, 60);
    tidemark_put32(block + 60, tidemark_crc32c(crc, block + PAYLOAD, (size_t)bytes_size + notes_size));
}

/* Header and both slots, the second one zeros, written and synced. */
static int write_new_file(const struct tidemark_io *io, int fd) {
    unsigned char header[TIDEMARK_BLOCK] = {0}, slot[TIDEMARK_BLOCK] = {0}, id[16];
    if (io->random_id(id) < 0 || io->ftruncate(fd, FILE_SIZE) < 0) return -1;
    memcpy(header, file_magic, sizeof file_magic);
    tidemark_put32(header + 8, VERSION);
    memcpy(header + 16, id, 16);
    tidemark_put32(header + 60, tidemark_crc32c(0, header, 60));
    memcpy(slot + PAYLOAD, "{}", 2);
    tidemark_checkpoint_seal(slot, id, 1, 2, 0);
    if (tidemark_io_write(io, fd, header, sizeof header, 0) < 0 ||
        tidemark_io_write(io, fd, slot, sizeof slot, tidemark_slot_offset(0)) < 0 ||
        tidemark_io_zero(io, fd, tidemark_slot_offset(1), tidemark_slot_offset(1) + TIDEMARK_BLOCK) < 0)
        return -1;
    return io->fsync(fd);
}

/* With the directory locked. The name appears by link, so that nobody sees a file that is not whole. */
static int make_locked(const struct tidemark_io *io, int directory, const char *name, const char *new_name,
                       const char *path, tidemark_error *error) {
    if (io->unlinkat(directory, new_name, 0) < 0 && errno != ENOENT)
        return tidemark_io_fail(error, path, ".new", "cannot remove what an earlier start left");
    int fd = io->openat(directory, new_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return tidemark_io_fail(error, path, ".new", "cannot make it");
    int result = 0;
    if (write_new_file(io, fd) < 0) result = tidemark_io_fail(error, path, ".new", "cannot write it");
    else if (io->linkat(directory, new_name, directory, name, 0) < 0 && errno != EEXIST)
        result = tidemark_io_fail(error, path, "", "cannot give the new file its name");
    (void)io->close(fd);
    (void)io->unlinkat(directory, new_name, 0);
    if (result == 0 && io->fsync(directory) < 0)
        result = tidemark_io_fail(error, path, "", "cannot sync its directory");
    return result;
}

int tidemark_checkpoint_file_make(const struct tidemark_io *io, int directory, const char *name, const char *new_name,
                                  const char *path, tidemark_error *error) {
    int locked;
    do locked = io->flock(directory, LOCK_EX);
    while (locked < 0 && errno == EINTR);
    if (locked < 0) return tidemark_io_fail(error, path, "", "cannot lock its directory");
    int result = make_locked(io, directory, name, new_name, path, error);
    (void)io->flock(directory, LOCK_UN);
    return result;
}

/* ---- reading ---- */

int tidemark_checkpoint_file_id(const struct tidemark_io *io, int fd, const char *path, unsigned char id[16],
                                tidemark_error *error) {
    unsigned char header[64];
    if (tidemark_io_read(io, fd, header, sizeof header, 0) < 0) {
        if (errno == ENODATA)
            return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: offset 0: too short to be a state file", path);
        return tidemark_io_fail(error, path, "", "cannot read its header");
    }
    if (memcmp(header, file_magic, sizeof file_magic) != 0)
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: offset 0: not a state file", path);
    uint32_t version = tidemark_get32(header + 8);
    if (tidemark_get32(header + 60) != tidemark_crc32c(0, header, 60))
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: offset 60: the header is damaged (CRC)", path);
    if (version != VERSION)
        return tidemark_fail(error, TIDEMARK_EUNSUPPORTED,
                             "%s: offset 8: state file version %" PRIu32 ", this tidemark reads version %d", path,
                             version, VERSION);
    memcpy(id, header + 16, 16);
    return 0;
}

void tidemark_checkpoint_clear(struct tidemark_checkpoint *checkpoint) {
    tidemark_free(checkpoint->block);
    tidemark_free(checkpoint->marks);
    checkpoint->block = NULL;
    checkpoint->marks = NULL;
}

int tidemark_checkpoint_file_read_slot(const struct tidemark_io *io, int fd, const char *path,
                                       const unsigned char id[16], unsigned number,
                                       struct tidemark_checkpoint *checkpoint, const char **why,
                                       tidemark_error *error) {
    unsigned char header[PAYLOAD];
    off_t offset = tidemark_slot_offset(number);
    memset(checkpoint, 0, sizeof *checkpoint);
    if (tidemark_io_read(io, fd, header, sizeof header, offset) < 0) goto unread;
    size_t bytes_size = tidemark_get32(header + 16);
    checkpoint->notes_size = tidemark_get32(header + 20);
    *why = "never written";
    if (tidemark_get64(header) == 0) return 0;
    *why = "no slot magic";
    if (memcmp(header, slot_magic, sizeof slot_magic) != 0) return 0;
    *why = "of another file";
    if (memcmp(header + 32, id, 16) != 0) return 0;
    *why = "lengths out of range";
    if (bytes_size > TIDEMARK_CHECKPOINT_SIZE(TIDEMARK_SHARDS) || checkpoint->notes_size > TIDEMARK_NOTES_SIZE)
        return 0;

    size_t size = PAYLOAD + bytes_size + checkpoint->notes_size;
    checkpoint->number = number;
    checkpoint->generation = tidemark_get64(header + 8);
    checkpoint->block_size = tidemark_slot_block_size(size - PAYLOAD);
    checkpoint->block = tidemark_calloc(1, checkpoint->block_size);
    if (checkpoint->block == NULL)
        return tidemark_fail(error, TIDEMARK_ENOMEM, "%s: no memory to read slot %u", path, number);
    if (tidemark_io_read(io, fd, checkpoint->block, size, offset) < 0) goto unread;
    uint32_t crc = tidemark_crc32c(0, checkpoint->block, 60);
    *why = "damaged or half written (CRC)";
    if (tidemark_crc32c(crc, checkpoint->block + PAYLOAD, size - PAYLOAD) != tidemark_get32(checkpoint->block + 60))
        goto invalid;
    checkpoint->notes = checkpoint->block + PAYLOAD + bytes_size;
    *why = "notes malformed";
    if (!tidemark_notes_valid(checkpoint->notes, checkpoint->notes_size)) goto invalid;
    *why = "checkpoint bytes malformed";
    int result = tidemark_checkpoint_decode((const char *)checkpoint->block + PAYLOAD, bytes_size, &checkpoint->marks,
                                            &checkpoint->count, error);
    if (result == TIDEMARK_ECORRUPT) goto invalid;
    if (result == 0) *why = NULL;
    else tidemark_checkpoint_clear(checkpoint);
    return result;

unread:
    *why = "cut off";
    if (errno != ENODATA) {
        tidemark_checkpoint_clear(checkpoint);
        return tidemark_io_fail(error, path, "", "cannot read a slot");
    }
invalid:
    tidemark_checkpoint_clear(checkpoint);
    return 0;
}

int tidemark_checkpoint_file_load(const struct tidemark_io *io, int fd, const char *path, const unsigned char id[16],
                                  struct tidemark_checkpoint *checkpoint, tidemark_error *error) {
    struct tidemark_checkpoint slots[2];
    const char *why[2];
    struct stat status;
    if (io->fstat(fd, &status) < 0) return tidemark_io_fail(error, path, "", "cannot read its status");
    if (status.st_size !=
        (off_t)FILE_SIZE) /* a slot that was cut off would leave an older checkpoint, as if by a torn save */
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: has %lld bytes, a state file has %lld", path,
                             (long long)status.st_size, (long long)FILE_SIZE);
    int result = tidemark_checkpoint_file_read_slot(io, fd, path, id, 0, &slots[0], &why[0], error);
    if (result < 0) return result;
    result = tidemark_checkpoint_file_read_slot(io, fd, path, id, 1, &slots[1], &why[1], error);
    if (result < 0) {
        tidemark_checkpoint_clear(&slots[0]);
        return result;
    }
    if (why[0] != NULL && why[1] != NULL)
        return tidemark_fail(error, TIDEMARK_ECORRUPT,
                             "%s: no valid checkpoint: slot 0 (offset %lld) is %s, slot 1 (offset %lld) is %s", path,
                             (long long)tidemark_slot_offset(0), why[0], (long long)tidemark_slot_offset(1), why[1]);
    unsigned newer = why[0] != NULL || (why[1] == NULL && slots[1].generation > slots[0].generation);
    *checkpoint = slots[newer];
    tidemark_checkpoint_clear(&slots[!newer]);
    return 0;
}

int tidemark_checkpoint_file_load_slot(const struct tidemark_io *io, int fd, const char *path,
                                       const unsigned char id[16], unsigned number,
                                       struct tidemark_checkpoint *checkpoint, tidemark_error *error) {
    const char *why;
    int result = tidemark_checkpoint_file_read_slot(io, fd, path, id, number, checkpoint, &why, error);
    if (result == 0 && why != NULL)
        return tidemark_fail(error, TIDEMARK_ECORRUPT, "%s: slot %u (offset %lld), the last checkpoint, is %s", path,
                             number, (long long)tidemark_slot_offset(number), why);
    return result;
}
