/* What the C programs in this directory share: each is a list of tests, prints a line for each and exits with 1 when
 * one failed. */
#ifndef TIDEMARK_CHECK_H
#define TIDEMARK_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static int check_failures; /* of the running test */
static int check_failed;   /* tests */

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("    %s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            check_failures++; \
        } \
    } while (0)

#define CHECK_INT(actual, expected) \
    do { \
        long long check_a = (long long)(actual), check_e = (long long)(expected); \
        if (check_a != check_e) { \
            printf("    %s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #actual, check_a, check_e); \
            check_failures++; \
        } \
    } while (0)

#define CHECK_STR(actual, expected) \
    do { \
        const char *check_a = (actual), *check_e = (expected); \
        if (strcmp(check_a, check_e) != 0) { \
            printf("    %s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #actual, check_a, check_e); \
            check_failures++; \
        } \
    } while (0)

#define RUN(test) \
    do { \
        check_failures = 0; \
        test(); \
        printf("%s - %s\n", check_failures ? "not ok" : "ok", #test); \
        fflush(stdout); \
        check_failed += check_failures != 0; \
    } while (0)

#define FINISH() (check_failed != 0)

/* How often the process has gone to sleep, as the kernel counts. A wait that polls does so hundreds of times a second.
 */
static inline long sleeps(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nvcsw : -1;
}

/* Whether a wait of a second since the counts of `sleeps` and `clock` was a few sleeps and no work. Processor time has
 * a wide bound only: it depends on what else the machine does. */
static inline bool was_asleep(long sleeps_before, clock_t clock_before) {
    return sleeps() - sleeps_before < 60 && clock() - clock_before < CLOCKS_PER_SEC / 4;
}

#endif
