/* Loaded before libc: time stands still, so that Lua seeds its hashes alike in each run. */
#include <time.h>

__attribute__((visibility("default"))) time_t time(time_t *result) {
    if (result != NULL) *result = 1700000000;
    return 1700000000;
}
