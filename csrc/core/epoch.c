/*
 * Epochs. A number that is only "the last one + 1" would be chosen twice by two writers on copies of one log. So the
 * upper bits are a time, which orders the leaders that one person starts one after the other, and the lower bits are
 * random, which keeps those apart that open at the same second. The random bits never depend on the last epoch, which
 * both copies know.
 */
#define _POSIX_C_SOURCE 200809L /* gmtime_r */
#include "epoch.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define RANDOM_BITS 30
#define RANDOM_MASK ((UINT64_C(1) << RANDOM_BITS) - 1)
#define CLOCK_MAX   UINT64_C(0xFFFFFFFF)      /* seconds: in the year 2106. A clock beyond it is wrong */
#define SECONDS_MAX ((UINT64_C(1) << 33) - 1) /* the upper 33 bits */

int tidemark_epoch_make(const struct tidemark_io *io, uint64_t last, uint64_t *epoch) {
    unsigned char bytes[16];
    int64_t clock = io->clock_ms() / 1000;
    uint64_t seconds = clock < 0 ? 0 : (uint64_t)clock;
    assert(last <= TIDEMARK_EPOCH_MAX);
    if (seconds > CLOCK_MAX) seconds = CLOCK_MAX;
    if (seconds < last >> RANDOM_BITS) seconds = last >> RANDOM_BITS;
    if (io->random_id(bytes) < 0) return -1;
    *epoch = seconds << RANDOM_BITS | (tidemark_get32(bytes) & RANDOM_MASK);
    if (*epoch > last) return 0;
    if (seconds == SECONDS_MAX) {
        errno = ERANGE;
        return -1;
    }
    *epoch += UINT64_C(1) << RANDOM_BITS;
    return 0;
}

const char *tidemark_epoch_text(uint64_t epoch, char text[TIDEMARK_EPOCH_TEXT]) {
    time_t seconds = (time_t)(epoch >> RANDOM_BITS);
    struct tm utc = {0};
    (void)gmtime_r(&seconds, &utc);
    size_t length = strftime(text, TIDEMARK_EPOCH_TEXT, "%Y-%m-%dT%H:%M:%SZ", &utc);
    (void)snprintf(text + length, TIDEMARK_EPOCH_TEXT - length, "#%08" PRIx64, epoch & RANDOM_MASK);
    return text;
}
