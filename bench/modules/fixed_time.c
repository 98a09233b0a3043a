/* Loaded before libc: time stands still at BENCH_TIME, so that Lua seeds its hashes as bench/instructions.lua says. */
#include <stdlib.h>
#include <time.h>

__attribute__((visibility("default"))) time_t time(time_t *result) {
    const char *seconds = getenv("BENCH_TIME");
    time_t now = seconds != NULL ? (time_t)atoll(seconds) : 0;
    if (result != NULL) *result = now;
    return now;
}
