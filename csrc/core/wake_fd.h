/*
 * A descriptor that one thread makes readable for who polls it in another: an eventfd on Linux, elsewhere (and in a
 * test that says TIDEMARK_WAKE_PIPE) a pipe. It is never read, so it stays readable. Internal.
 */
#ifndef TIDEMARK_CORE_WAKE_FD_H
#define TIDEMARK_CORE_WAKE_FD_H

#include <stdint.h>
#include <unistd.h>

struct tidemark_wake_fd {
    int readable; /* for who polls; -1: none */
    int writable;
};

#if defined __linux__ && !defined TIDEMARK_WAKE_PIPE

#include <sys/eventfd.h>

/* 0, or -1 with errno. */
static inline int tidemark_wake_fd_make(struct tidemark_wake_fd *fd) {
    fd->readable = fd->writable = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd->readable < 0 ? -1 : 0;
}

#else

#include <errno.h>
#include <fcntl.h>

static inline int tidemark_wake_fd_make(struct tidemark_wake_fd *fd) {
    int ends[2], reason = 0;
    if (pipe(ends) < 0) return -1;
    for (int i = 0; i < 2; i++) {
        if (fcntl(ends[i], F_SETFD, FD_CLOEXEC) < 0 || fcntl(ends[i], F_SETFL, O_NONBLOCK) < 0) reason = errno;
    }
    if (reason != 0) {
        (void)close(ends[0]);
        (void)close(ends[1]);
        errno = reason;
        return -1;
    }
    fd->readable = ends[0];
    fd->writable = ends[1];
    return 0;
}

#endif

/* Makes it readable, once. There is room for the first 8 bytes in either kind, so it does not block or fail. */
static inline void tidemark_wake_fd_set(const struct tidemark_wake_fd *fd) {
    static const uint64_t one = 1;
    (void)!write(fd->writable, &one, sizeof one);
}

static inline void tidemark_wake_fd_close(const struct tidemark_wake_fd *fd) {
    (void)close(fd->readable);
    if (fd->writable != fd->readable) (void)close(fd->writable);
}

#endif
