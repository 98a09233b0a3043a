/* The system's own table of calls, and loops around them. */
#define _GNU_SOURCE /* F_OFD_SETLK, flock, statx */
#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h> /* renameat */
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "error.h"

static int system_openat(int directory, const char *name, int flags, mode_t mode) {
    return openat(directory, name, flags, mode);
}

/* All but the times. Linux 6.13 and later give a file whose times were asked for a new time at the next write, however
 * soon, and without a journal that is one more block for fdatasync to write: a fifth of a save. */
static int system_fstatat(int directory, const char *name, struct stat *status, int flags) {
    struct statx found;
    unsigned mask = STATX_BASIC_STATS & ~(STATX_ATIME | STATX_MTIME | STATX_CTIME);
    if (statx(directory, name, flags, mask, &found) < 0) /* EPERM: a sandbox that is older than the call */
        return errno == EPERM ? fstatat(directory, name, status, flags) : -1;
    *status = (struct stat){.st_dev = makedev(found.stx_dev_major, found.stx_dev_minor),
                            .st_ino = found.stx_ino,
                            .st_mode = found.stx_mode,
                            .st_nlink = found.stx_nlink,
                            .st_uid = found.stx_uid,
                            .st_gid = found.stx_gid,
                            .st_size = (off_t)found.stx_size,
                            .st_blocks = (blkcnt_t)found.stx_blocks,
                            .st_blksize = (blksize_t)found.stx_blksize};
    return 0;
}

static int system_fstat(int fd, struct stat *status) {
    return system_fstatat(fd, "", status, AT_EMPTY_PATH);
}

static int system_lock(int fd, short type, off_t byte, bool wait) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
}

static int system_list(int directory, int (*entry)(void *context, const char *name), void *context) {
    int result = 0;
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a position of its own */
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        if (fd >= 0) (void)close(fd);
        return -1;
    }
    while (result == 0) {
        errno = 0;
        const struct dirent *found = readdir(stream);
        if (found == NULL) break;
        result = entry(context, found->d_name);
    }
    if (result == 0 && errno != 0) result = -1;
    int reason = errno;
    (void)closedir(stream);
    errno = reason;
    return result;
}

/* "a7152df2-9c92-4541-93c8-1892ec2b68fa": 32 hexadecimal digits are the 16 bytes. */
static int read_boot_id(unsigned char id[16]) {
    static const char hexadecimal[] = "0123456789abcdef";
    char text[37];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, text, sizeof text - 1);
    (void)close(fd);
    int digits = 0;
    memset(id, 0, 16);
    for (ssize_t i = 0; i < length && digits < 32; i++) {
        const char *digit = memchr(hexadecimal, text[i], 16);
        if (digit == NULL) continue;
        id[digits / 2] = (unsigned char)(id[digits / 2] << 4 | (digit - hexadecimal));
        digits++;
    }
    if (digits == 32) return 0;
    errno = EIO;
    return -1;
}

/* A server that has locked itself into a chroot sees no /proc any more, but is still on the boot on which the library
 * was loaded. Written once, before anything else here can run. */
static unsigned char loaded_boot_id[16];
static bool has_loaded_boot_id;

__attribute__((constructor)) static void keep_boot_id(void) {
    has_loaded_boot_id = read_boot_id(loaded_boot_id) == 0;
}

/* As /proc says where there is one: a process that was frozen and taken to another boot must not trust what it kept. */
static int system_boot_id(unsigned char id[16]) {
    if (read_boot_id(id) == 0) return 0;
    if (!has_loaded_boot_id) return -1;
    memcpy(id, loaded_boot_id, sizeof loaded_boot_id);
    return 0;
}

static int64_t system_clock_ms(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_REALTIME, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int system_random_id(unsigned char id[16]) {
    return getrandom(id, 16, 0) == 16 ? 0 : -1;
}

const struct tidemark_io tidemark_io_system = {
    .openat = system_openat,
    .close = close,
    .fstat = system_fstat,
    .fstatat = system_fstatat,
    .pread = pread,
    .pwrite = pwrite,
    .ftruncate = ftruncate,
    .fsync = fsync,
    .fdatasync = fdatasync,
    .mkdirat = mkdirat,
    .linkat = linkat,
    .unlinkat = unlinkat,
    .renameat = renameat,
    .mmap = mmap,
    .munmap = munmap,
    .flock = flock,
    .lock = system_lock,
    .list = system_list,
    .clock_ms = system_clock_ms,
    .boot_id = system_boot_id,
    .random_id = system_random_id,
};

int tidemark_io_read(const struct tidemark_io *io, int fd, void *bytes, size_t length, off_t offset) {
    for (char *at = bytes; length > 0;) {
        ssize_t done = io->pread(fd, at, length, offset);
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = ENODATA;
        if (done <= 0) return -1;
        at += done;
        offset += done;
        length -= (size_t)done;
    }
    return 0;
}

int tidemark_io_write(const struct tidemark_io *io, int fd, const void *bytes, size_t length, off_t offset) {
    for (const char *at = bytes; length > 0;) {
        ssize_t done = io->pwrite(fd, at, length, offset);
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = EIO;
        if (done <= 0) return -1;
        at += done;
        offset += done;
        length -= (size_t)done;
    }
    return 0;
}

int tidemark_io_zero(const struct tidemark_io *io, int fd, off_t from, off_t to) {
    static const char zeros[65536];
    while (from < to) {
        size_t length = to - from < (off_t)sizeof zeros ? (size_t)(to - from) : sizeof zeros;
        if (tidemark_io_write(io, fd, zeros, length, from) < 0) return -1;
        from += (off_t)length;
    }
    return 0;
}

int tidemark_io_lock(const struct tidemark_io *io, int fd, short type, off_t byte, bool wait) {
    int result;
    do result = io->lock(fd, type, byte, wait);
    while (result < 0 && errno == EINTR);
    return result;
}

bool tidemark_io_is_same(const struct stat *status, const struct stat *other) {
    return status->st_dev == other->st_dev && status->st_ino == other->st_ino;
}

int tidemark_io_fail(tidemark_error *error, const char *path, const char *suffix, const char *what) {
    return tidemark_fail(error, TIDEMARK_EIO, "%s%s: %s: %s", path, suffix, what, strerror(errno));
}
