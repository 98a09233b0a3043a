/* What the C programs in this directory share: each is a list of tests, prints a line for each and exits with 1 when
 * one failed. */
#ifndef TIDEMARK_CHECK_H
#define TIDEMARK_CHECK_H

#include <stdio.h>
#include <string.h>
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

/* What the process has computed so far: not time that passes, so a slow machine does not matter. */
static inline double cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

#endif
