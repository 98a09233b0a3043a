/*
 * A `struct tidemark_io` for tests of faults: every call passes a counter, and at the n-th one it fails, or the process
 * is killed. It also knows what a loss of power leaves: what no sync has reached may be gone.
 *
 *     fault_reset();                                 in the test: nothing fails, counters at 0
 *     fault->mode = FAULT_ONCE, fault->at = 3;       the third call fails with fault->code
 *     tidemark_state_open_io(&fault_io, ...);
 *     fault_power_loss(directory, FAULT_LOSE_ALL);   the files of `directory` are now what the disk was sure to hold
 *
 * `fault` lies in memory that forked children share, so that a parent sees how far a killed child came. One thread.
 * What stands behind a mapping (the live file) is not part of the power loss: a changed fault->boot tells the code.
 * The program defines _GNU_SOURCE before its first include.
 */
#ifndef TIDEMARK_FAULT_IO_H
#define TIDEMARK_FAULT_IO_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/core/io.h"

enum fault_mode {
    FAULT_NONE,
    FAULT_ONCE,        /* call `at` fails */
    FAULT_FOR_GOOD,    /* call `at` and all that follow fail */
    FAULT_HOOK,        /* fault_hook() is called before call `at` */
    FAULT_KILL_BEFORE, /* SIGKILL in the place of call `at` */
    FAULT_KILL_AFTER,  /* SIGKILL when call `at` is done and its caller does not know yet */
    FAULT_KILL_HALFWAY /* SIGKILL after a 64th of the bytes, where call `at` is a pwrite; else as KILL_AFTER */
};

enum fault_call {
    FAULT_OPENAT,
    FAULT_CLOSE,
    FAULT_FSTAT,
    FAULT_FSTATAT,
    FAULT_PREAD,
    FAULT_PWRITE,
    FAULT_FTRUNCATE,
    FAULT_FSYNC,
    FAULT_FDATASYNC,
    FAULT_MKDIRAT,
    FAULT_LINKAT,
    FAULT_UNLINKAT,
    FAULT_RENAMEAT,
    FAULT_MMAP,
    FAULT_MUNMAP,
    FAULT_FLOCK,
    FAULT_LOCK,
    FAULT_LIST,
    FAULT_BOOT_ID,
    FAULT_RANDOM_ID
};

#define FAULT_REPLACED ".replaced." /* before the name of what a rename has replaced, until the directory is synced */

#define FAULT_SECTOR  512 /* what a disk writes whole */
#define FAULT_SECTORS 16384
#define FAULT_FILES   256
#define FAULT_NAMES   256

/* A sector that may stand differently on the disk than a reader sees it. */
struct fault_sector {
    dev_t device;
    ino_t inode;
    off_t number;
    bool dirty; /* the next good sync writes it; false: a sync of it failed, and none will write it any more */
    unsigned char disk[FAULT_SECTOR];
};

/* A file whose length on the disk may be another. */
struct fault_file {
    dev_t device;
    ino_t inode;
    off_t disk_size;
};

/* A name that was made in a directory that has not been synced since. */
struct fault_name {
    dev_t device; /* of the directory */
    ino_t inode;
    char name[128];
};

struct fault {
    enum fault_mode mode;
    unsigned at;     /* 1 is the first call */
    int code;        /* errno of what fails */
    unsigned only;   /* a set of 1 << FAULT_X that are counted; 0: all */
    size_t most;     /* a pread or pwrite does so many bytes at most; 0: no limit */
    bool interrupts; /* every second pread, pwrite, flock and lock is an EINTR */
    unsigned char boot[16];
    int64_t clock_ms; /* what the clock says; 0: what the system's says */

    unsigned calls;            /* counted so far */
    unsigned failed;           /* how many of them failed */
    enum fault_call first;     /* which one failed first */
    int descriptors, mappings; /* opened through the table and not yet closed */
    unsigned interrupted;
    size_t sectors, files, names;
    struct fault_sector sector[FAULT_SECTORS];
    struct fault_file file[FAULT_FILES];
    struct fault_name name[FAULT_NAMES];
};

static struct fault *fault;
static void (*fault_hook)(void); /* must not use the table */

/* Nothing fails, nothing is unsynced, nothing is open; boot ids begin anew. */
static void fault_reset(void) {
    if (fault == NULL)
        fault = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fault == MAP_FAILED) abort();
    memset(fault, 0, offsetof(struct fault, sector));
    fault->code = EIO;
    fault->boot[0] = 1;
}

/* From here on call `at` (of those in `only`, 0 for all) behaves so. */
static void fault_set(enum fault_mode mode, unsigned at, int code, unsigned only) {
    fault->mode = mode;
    fault->at = at;
    fault->code = code;
    fault->only = only;
    fault->calls = fault->failed = 0;
}

static void fault_clear(void) {
    fault_set(FAULT_NONE, 0, EIO, 0);
    fault->most = 0;
    fault->interrupts = false;
}

/* ---- counting, failing, killing ---- */

static void fault_die(void) {
    (void)raise(SIGKILL);
    abort();
}

/* Counts a call that begins: whether it is to fail, with errno. */
static bool fault_enter(enum fault_call call) {
    if (fault->only != 0 && !(fault->only & 1u << call)) return false;
    fault->calls++;
    if (fault->mode == FAULT_KILL_BEFORE && fault->calls == fault->at) fault_die();
    if (fault->mode == FAULT_HOOK && fault->calls == fault->at) fault_hook();
    bool fails = (fault->mode == FAULT_ONCE && fault->calls == fault->at) ||
                 (fault->mode == FAULT_FOR_GOOD && fault->calls >= fault->at);
    if (fails && fault->failed++ == 0) fault->first = call;
    errno = fault->code;
    return fails;
}

/* A call that has been done. */
static void fault_leave(enum fault_call call) {
    bool counted = fault->only == 0 || fault->only & 1u << call;
    bool kills = fault->mode == FAULT_KILL_AFTER || fault->mode == FAULT_KILL_HALFWAY;
    if (counted && kills && fault->calls == fault->at) fault_die();
}

static bool fault_interrupt(void) {
    errno = EINTR;
    return fault->interrupts && ++fault->interrupted % 2;
}

/* ---- what is on the disk ---- */

static struct fault_sector *fault_find_sector(const struct stat *status, off_t number) {
    for (size_t i = 0; i < fault->sectors; i++) {
        struct fault_sector *sector = &fault->sector[i];
        if (sector->number == number && sector->inode == status->st_ino && sector->device == status->st_dev)
            return sector;
    }
    return NULL;
}

static struct fault_file *fault_find_file(const struct stat *status) {
    for (size_t i = 0; i < fault->files; i++) {
        if (fault->file[i].inode == status->st_ino && fault->file[i].device == status->st_dev) return &fault->file[i];
    }
    return NULL;
}

/* Remembers what the disk holds before a write or a change of length. */
static void fault_before_write(int fd, off_t offset, size_t length) {
    struct stat status;
    if (fstat(fd, &status) < 0) abort();
    if (fault_find_file(&status) == NULL) {
        if (fault->files == FAULT_FILES) abort();
        fault->file[fault->files++] = (struct fault_file){status.st_dev, status.st_ino, status.st_size};
    }
    for (off_t number = offset / FAULT_SECTOR; number * FAULT_SECTOR < offset + (off_t)length; number++) {
        struct fault_sector *sector = fault_find_sector(&status, number);
        if (sector == NULL) {
            if (fault->sectors == FAULT_SECTORS) abort();
            sector = &fault->sector[fault->sectors++];
            *sector = (struct fault_sector){.device = status.st_dev, .inode = status.st_ino, .number = number};
            if (pread(fd, sector->disk, FAULT_SECTOR, number * FAULT_SECTOR) < 0) abort();
        }
        sector->dirty = true;
    }
}

/* After a sync of `fd`: what it reached is no longer in doubt. After one that failed the system holds its pages for
 * clean, so no later sync will write them. */
static void fault_synced(int fd, bool good) {
    struct stat status;
    size_t kept = 0;
    if (fstat(fd, &status) < 0) abort();
    for (size_t i = 0; i < fault->sectors; i++) {
        struct fault_sector *sector = &fault->sector[i];
        bool own = sector->inode == status.st_ino && sector->device == status.st_dev;
        if (own && sector->dirty && good) continue;
        if (own) sector->dirty = false;
        if (kept != i) fault->sector[kept] = *sector;
        kept++;
    }
    fault->sectors = kept;
    struct fault_file *file = fault_find_file(&status);
    if (good && file != NULL) *file = fault->file[--fault->files];
    for (size_t i = 0; good && i < fault->names;) {
        if (fault->name[i].inode == status.st_ino && fault->name[i].device == status.st_dev) {
            char before[160];
            (void)snprintf(before, sizeof before, FAULT_REPLACED "%s", fault->name[i].name);
            (void)unlinkat(fd, before, 0);
            fault->name[i] = fault->name[--fault->names];
        } else {
            i++;
        }
    }
}

/* A file that is gone or new; its inode number may have been another's. */
static void fault_forget(const struct stat *status) {
    size_t kept = 0;
    for (size_t i = 0; i < fault->sectors; i++) {
        const struct fault_sector *sector = &fault->sector[i];
        if (sector->inode == status->st_ino && sector->device == status->st_dev) continue;
        if (kept != i) fault->sector[kept] = *sector;
        kept++;
    }
    fault->sectors = kept;
    struct fault_file *file = fault_find_file(status);
    if (file != NULL) *file = fault->file[--fault->files];
}

/* A new name in the open directory, which is in doubt until that is synced. */
static void fault_named(int directory, const char *name) {
    struct stat status;
    if (fstat(directory, &status) < 0) abort();
    for (size_t i = 0; i < fault->names; i++) {
        if (fault->name[i].inode == status.st_ino && strcmp(fault->name[i].name, name) == 0) return;
    }
    if (fault->names == FAULT_NAMES) abort();
    struct fault_name *entry = &fault->name[fault->names++];
    *entry = (struct fault_name){.device = status.st_dev, .inode = status.st_ino};
    (void)snprintf(entry->name, sizeof entry->name, "%s", name);
}

#define FAULT_LOSE_NOTHING 0u
#define FAULT_LOSE_ALL     (~0u)

/* Whether item `i` is lost: any other number than those two is a seed by which each sector is lost or not. */
static bool fault_loses(unsigned what, size_t i) {
    if (what == FAULT_LOSE_NOTHING || what == FAULT_LOSE_ALL) return what != 0;
    unsigned mixed = (what + (unsigned)i * 0x9E3779B9u) * 0x85EBCA6Bu;
    return mixed >> 31;
}

/* Puts the files of `directory` into the state of the disk. No process may have them open. Names that were taken away
 * stay away. */
static void fault_power_loss(const char *directory, unsigned what) {
    DIR *entries = opendir(directory);
    struct stat status;
    if (entries == NULL || fstat(dirfd(entries), &status) < 0) abort();
    for (size_t i = 0; i < fault->names; i++) {
        if (fault->name[i].inode != status.st_ino) continue;
        char before[160];
        (void)snprintf(before, sizeof before, FAULT_REPLACED "%s", fault->name[i].name);
        if (!fault_loses(what, i)) (void)unlinkat(dirfd(entries), before, 0);
        else if (renameat(dirfd(entries), before, dirfd(entries), fault->name[i].name) < 0)
            (void)unlinkat(dirfd(entries), fault->name[i].name, 0);
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(status.st_mode))
            continue;
        int fd = openat(dirfd(entries), entry->d_name, O_RDWR);
        if (fd < 0) abort();
        for (size_t i = 0; i < fault->sectors; i++) {
            const struct fault_sector *sector = &fault->sector[i];
            if (sector->inode == status.st_ino && sector->device == status.st_dev && fault_loses(what, i) &&
                pwrite(fd, sector->disk, FAULT_SECTOR, sector->number * FAULT_SECTOR) != FAULT_SECTOR)
                abort();
        }
        /* the last sector may have been written back beyond the end */
        const struct fault_file *file = fault_find_file(&status);
        if (ftruncate(fd, file != NULL && fault_loses(what, 0) ? file->disk_size : status.st_size) < 0) abort();
        (void)close(fd);
    }
    (void)closedir(entries);
    fault->sectors = fault->files = fault->names = 0;
}

/* ---- the table ---- */

static int fault_openat(int directory, const char *name, int flags, mode_t mode) {
    if (fault_enter(FAULT_OPENAT)) return -1;
    int fd = tidemark_io_system.openat(directory, name, flags, mode);
    if (fd >= 0) fault->descriptors++;
    if (fd >= 0 && flags & O_CREAT && flags & O_EXCL) {
        struct stat status;
        if (fstat(fd, &status) < 0) abort();
        fault_forget(&status);
        fault_named(directory, name);
    }
    fault_leave(FAULT_OPENAT);
    return fd;
}

/* Closes in any case, as Linux does. */
static int fault_close(int fd) {
    bool fails = fault_enter(FAULT_CLOSE);
    if (close(fd) == 0) fault->descriptors--;
    fault_leave(FAULT_CLOSE);
    errno = fault->code;
    return fails ? -1 : 0;
}

static int fault_fstat(int fd, struct stat *status) {
    if (fault_enter(FAULT_FSTAT)) return -1;
    int result = fstat(fd, status);
    fault_leave(FAULT_FSTAT);
    return result;
}

static int fault_fstatat(int directory, const char *name, struct stat *status, int flags) {
    if (fault_enter(FAULT_FSTATAT)) return -1;
    int result = fstatat(directory, name, status, flags);
    fault_leave(FAULT_FSTATAT);
    return result;
}

static size_t fault_count(size_t length) {
    return fault->most != 0 && length > fault->most ? fault->most : length;
}

static ssize_t fault_pread(int fd, void *bytes, size_t length, off_t offset) {
    if (fault_enter(FAULT_PREAD) || fault_interrupt()) return -1;
    ssize_t done = pread(fd, bytes, fault_count(length), offset);
    fault_leave(FAULT_PREAD);
    return done;
}

static ssize_t fault_pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    if (fault_enter(FAULT_PWRITE) || fault_interrupt()) return -1;
    bool halfway = fault->mode == FAULT_KILL_HALFWAY && fault->calls == fault->at;
    length = halfway ? length / 64 : fault_count(length);
    fault_before_write(fd, offset, length);
    ssize_t done = pwrite(fd, bytes, length, offset);
    fault_leave(FAULT_PWRITE);
    return done;
}

static int fault_ftruncate(int fd, off_t length) {
    struct stat status;
    if (fault_enter(FAULT_FTRUNCATE)) return -1;
    if (fstat(fd, &status) < 0) abort();
    fault_before_write(fd, length, status.st_size > length ? (size_t)(status.st_size - length) : 0);
    int result = ftruncate(fd, length);
    fault_leave(FAULT_FTRUNCATE);
    return result;
}

static int fault_sync(int fd, enum fault_call call) {
    bool fails = fault_enter(call);
    fault_synced(fd, !fails);
    fault_leave(call);
    errno = fault->code;
    return fails ? -1 : 0;
}

static int fault_fsync(int fd) {
    return fault_sync(fd, FAULT_FSYNC);
}

static int fault_fdatasync(int fd) {
    return fault_sync(fd, FAULT_FDATASYNC);
}

static int fault_mkdirat(int directory, const char *name, mode_t mode) {
    if (fault_enter(FAULT_MKDIRAT)) return -1;
    int result = mkdirat(directory, name, mode);
    int made = result == 0 ? openat(directory, name, O_RDONLY | O_DIRECTORY) : -1;
    int above = made >= 0 ? openat(made, "..", O_RDONLY | O_DIRECTORY) : -1; /* `name` is a path */
    if (above >= 0) fault_named(above, "a new directory");
    if (above >= 0) (void)close(above);
    if (made >= 0) (void)close(made);
    fault_leave(FAULT_MKDIRAT);
    return result;
}

static int fault_linkat(int old_directory, const char *old_name, int directory, const char *name, int flags) {
    if (fault_enter(FAULT_LINKAT)) return -1;
    int result = linkat(old_directory, old_name, directory, name, flags);
    if (result == 0) fault_named(directory, name);
    fault_leave(FAULT_LINKAT);
    return result;
}

static int fault_unlinkat(int directory, const char *name, int flags) {
    struct stat status;
    if (fault_enter(FAULT_UNLINKAT)) return -1;
    bool last = fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && status.st_nlink == 1;
    int result = unlinkat(directory, name, flags);
    if (result == 0 && last) fault_forget(&status);
    fault_leave(FAULT_UNLINKAT);
    return result;
}

/* The old name is gone at once and the new one is in doubt; but a name that is replaced stays until the sync. The model
 * keeps what was there as a hidden link, which fault_power_loss puts back. */
static int fault_renameat(int old_directory, const char *old_name, int directory, const char *name) {
    char before[160];
    if (fault_enter(FAULT_RENAMEAT)) return -1;
    (void)snprintf(before, sizeof before, FAULT_REPLACED "%s", name);
    bool replaces = linkat(directory, name, directory, before, 0) == 0;
    int result = renameat(old_directory, old_name, directory, name);
    if (result == 0) fault_named(directory, name);
    else if (replaces) (void)unlinkat(directory, before, 0);
    fault_leave(FAULT_RENAMEAT);
    return result;
}

static int64_t fault_clock_ms(void) {
    return fault->clock_ms != 0 ? fault->clock_ms : tidemark_io_system.clock_ms();
}

static void *fault_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fault_enter(FAULT_MMAP)) return MAP_FAILED;
    void *result = mmap(address, length, protection, flags, fd, offset);
    fault->mappings += result != MAP_FAILED;
    fault_leave(FAULT_MMAP);
    return result;
}

static int fault_munmap(void *address, size_t length) {
    bool fails = fault_enter(FAULT_MUNMAP);
    fault->mappings -= munmap(address, length) == 0;
    fault_leave(FAULT_MUNMAP);
    return fails ? -1 : 0;
}

static int fault_flock(int fd, int operation) {
    if (fault_enter(FAULT_FLOCK) || fault_interrupt()) return -1;
    int result = tidemark_io_system.flock(fd, operation);
    fault_leave(FAULT_FLOCK);
    return result;
}

static int fault_lock(int fd, short type, off_t byte, bool wait) {
    if (fault_enter(FAULT_LOCK) || fault_interrupt()) return -1;
    int result = tidemark_io_system.lock(fd, type, byte, wait);
    fault_leave(FAULT_LOCK);
    return result;
}

static int fault_list(int directory, int (*entry)(void *context, const char *name), void *context) {
    if (fault_enter(FAULT_LIST)) return -1;
    int result = tidemark_io_system.list(directory, entry, context);
    fault_leave(FAULT_LIST);
    return result;
}

static int fault_boot_id(unsigned char id[16]) {
    if (fault_enter(FAULT_BOOT_ID)) return -1;
    memcpy(id, fault->boot, 16);
    fault_leave(FAULT_BOOT_ID);
    return 0;
}

static int fault_random_id(unsigned char id[16]) {
    if (fault_enter(FAULT_RANDOM_ID)) return -1;
    int result = tidemark_io_system.random_id(id);
    fault_leave(FAULT_RANDOM_ID);
    return result;
}

static const struct tidemark_io fault_io = {
    .openat = fault_openat,
    .close = fault_close,
    .fstat = fault_fstat,
    .fstatat = fault_fstatat,
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .ftruncate = fault_ftruncate,
    .fsync = fault_fsync,
    .fdatasync = fault_fdatasync,
    .mkdirat = fault_mkdirat,
    .linkat = fault_linkat,
    .unlinkat = fault_unlinkat,
    .renameat = fault_renameat,
    .clock_ms = fault_clock_ms,
    .mmap = fault_mmap,
    .munmap = fault_munmap,
    .flock = fault_flock,
    .lock = fault_lock,
    .list = fault_list,
    .boot_id = fault_boot_id,
    .random_id = fault_random_id,
};

#endif
