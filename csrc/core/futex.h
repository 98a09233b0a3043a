/*
 * Sleeping until a 32-bit word changes, between threads or, with `shared`, between processes that map one file. On
 * Linux a futex. Elsewhere short sleeps, which is late by a millisecond and otherwise the same; who waits looks again
 * anyway. The including file defines _DEFAULT_SOURCE. A test puts its own functions in their place,
 * -DTIDEMARK_FUTEX_H='"file.h"'. Internal.
 */
#ifndef TIDEMARK_CORE_FUTEX_H
#define TIDEMARK_CORE_FUTEX_H

#ifdef TIDEMARK_FUTEX_H
#include TIDEMARK_FUTEX_H
#else

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifdef SYS_futex

/* Sleeps while the word is `value`: less than a second of `nanoseconds`, or until a wake or a signal, or for no reason.
 */
static inline void tidemark_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool shared, long nanoseconds) {
    const long timeout[2] = {0, nanoseconds}; /* as this call has it, whatever the width of time_t */
    (void)syscall(SYS_futex, word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0);
}

/* Wakes all who sleep on the word. */
static inline void tidemark_futex_wake(_Atomic(uint32_t) *word, bool shared) {
    (void)syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

#include <time.h>

static inline void tidemark_futex_wait(_Atomic(uint32_t) *word, uint32_t value, bool shared, long nanoseconds) {
    struct timespec pause = {0, nanoseconds < 1000000 ? nanoseconds : 1000000};
    (void)shared;
    if (atomic_load(word) == value) (void)nanosleep(&pause, NULL);
}

static inline void tidemark_futex_wake(_Atomic(uint32_t) *word, bool shared) {
    (void)word;
    (void)shared;
}

#endif
#endif
#endif
