/*
 * The system calls of the core, as a table: everything that touches a file goes through one, and a test passes its own
 * to fail, count or kill at any of them. Each entry has the contract of the call it is named after (-1 and errno).
 * Internal.
 */
#ifndef TIDEMARK_CORE_IO_H
#define TIDEMARK_CORE_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "bytes.h" /* for the numbers in files */
#include "tidemark.h"

#pragma GCC visibility push(hidden)

struct tidemark_io {
    int (*openat)(int directory, const char *name, int flags, mode_t mode);
    int (*close)(int fd);
    /* These two need not give the times. */
    int (*fstat)(int fd, struct stat *status);
    int (*fstatat)(int directory, const char *name, struct stat *status, int flags);
    ssize_t (*pread)(int fd, void *bytes, size_t length, off_t offset);
    ssize_t (*pwrite)(int fd, const void *bytes, size_t length, off_t offset);
    int (*ftruncate)(int fd, off_t length);
    int (*fsync)(int fd);
    int (*fdatasync)(int fd);
    int (*mkdirat)(int directory, const char *name, mode_t mode);
    int (*linkat)(int old_directory, const char *old_name, int directory, const char *name, int flags);
    int (*unlinkat)(int directory, const char *name, int flags);
    int (*renameat)(int old_directory, const char *old_name, int directory, const char *name);
    void *(*mmap)(void *address, size_t length, int protection, int flags, int fd, off_t offset);
    int (*munmap)(void *address, size_t length);
    int (*flock)(int fd, int operation);
    /* An open file description lock on one byte; `type` is F_RDLCK, F_WRLCK or F_UNLCK. Without `wait`, EAGAIN where
     * another holds it. */
    int (*lock)(int fd, short type, off_t byte, bool wait);
    /* Calls `entry` with each name in the directory, in any order, until it returns other than 0: that value, or 0, or
     * -1 and errno. */
    int (*list)(int directory, int (*entry)(void *context, const char *name), void *context);
    /* Milliseconds since 1970 by the system's clock, which may be wrong and may go back. */
    int64_t (*clock_ms)(void);
    /* The 16 bytes of this boot's id; of a new file's id. */
    int (*boot_id)(unsigned char id[16]);
    int (*random_id)(unsigned char id[16]);
};

/* The operating system's own. */
extern const struct tidemark_io tidemark_io_system;

/* pread and pwrite of the whole length, through short counts and EINTR: 0, or -1 and errno. A file that ends early is
 * an ENODATA. */
int tidemark_io_read(const struct tidemark_io *io, int fd, void *bytes, size_t length, off_t offset);
int tidemark_io_write(const struct tidemark_io *io, int fd, const void *bytes, size_t length, off_t offset);

/* Writes zeros to [from, to): 0, or -1 and errno. */
int tidemark_io_zero(const struct tidemark_io *io, int fd, off_t from, off_t to);

/* `lock` that goes on after EINTR. */
int tidemark_io_lock(const struct tidemark_io *io, int fd, short type, off_t byte, bool wait);

/* Whether both are of the same file. */
bool tidemark_io_is_same(const struct stat *status, const struct stat *other);

/* TIDEMARK_EIO: "PATHSUFFIX: WHAT: text of errno". */
int tidemark_io_fail(tidemark_error *error, const char *path, const char *suffix, const char *what);

#pragma GCC visibility pop

#endif
