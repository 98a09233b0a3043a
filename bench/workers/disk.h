/*
 * What contenders that write to the disk share: a directory of their own in BENCH_DIR (default: build/bench), which is
 * removed when the process ends, and the raw write and sync that they are compared with.
 */
#ifndef TIDEMARK_BENCH_DISK_H
#define TIDEMARK_BENCH_DISK_H

#include <fcntl.h>
#include <glob.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve.h"

#define DISK_PATH 4096

static char disk_directory[DISK_PATH - 128];
static pid_t disk_owner;

static void disk_fail(const char *what) {
    perror(what);
    bench_fail(what);
}

/* Removes what is in the directory and in directories in it. A forked child removes nothing. */
static void disk_clean_up(void) {
    static const char *const patterns[] = {"*/*", "*"};
    char pattern[DISK_PATH];
    glob_t found;
    if (getpid() != disk_owner) return;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        (void)snprintf(pattern, sizeof pattern, "%s/%s", disk_directory, patterns[i]);
        if (glob(pattern, 0, NULL, &found) != 0) continue;
        for (size_t at = 0; at < found.gl_pathc; at++) {
            if (unlink(found.gl_pathv[at]) < 0) (void)rmdir(found.gl_pathv[at]);
        }
        globfree(&found);
    }
    (void)rmdir(disk_directory);
}

/* Makes the directory; once. */
static void disk_need_directory(void) {
    const char *parent = getenv("BENCH_DIR");
    if (disk_directory[0] != '\0') return;
    (void)snprintf(disk_directory, sizeof disk_directory, "%s/disk.XXXXXX", parent != NULL ? parent : "build/bench");
    if (mkdtemp(disk_directory) == NULL) disk_fail("mkdtemp in BENCH_DIR");
    disk_owner = getpid();
    (void)atexit(disk_clean_up);
}

/* The path of a file in the directory; for one use, or two. */
static inline const char *disk_path(const char *name) {
    static char paths[2][DISK_PATH];
    static unsigned at;
    disk_need_directory();
    at = !at;
    (void)snprintf(paths[at], sizeof paths[at], "%s/%s", disk_directory, name);
    return paths[at];
}

static inline void disk_write(int fd, const void *bytes, size_t size, off_t offset) {
    if (pwrite(fd, bytes, size, offset) != (ssize_t)size) disk_fail("pwrite");
}

/* Does it and gives its microseconds. An answer is one operation: a disk's speed changes from one moment to the next,
 * so the contenders take turns by single ones. */
static inline double disk_time(void (*operation)(void)) {
    double start = bench_now();
    operation();
    return (bench_now() - start) * 1e6;
}

/* Whether what is there is to be read back now; costly reading disturbs who is next. */
static inline bool disk_is_check_due(void) {
    static unsigned calls;
    return calls++ % 16 == 0;
}

#endif
