/*
 * What each contender in C shares: it answers the lines `case [size [threads [count]]]` on its input with nanoseconds
 * per operation, or another number, one a line. `seconds` of one measurement are its argument; how many operations fit
 * is found at a case's first line and then kept, where the line does not fix it.
 */
#ifndef TIDEMARK_BENCH_SERVE_H
#define TIDEMARK_BENCH_SERVE_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct bench_case {
    const char *name;
    void *(*prepare)(unsigned size, unsigned threads); /* what `run` gets; kept until the process ends */
    void (*run)(void *prepared, uint64_t count);       /* does that many operations */
    double (*value)(unsigned size);                    /* or, in place of both, the answer */
};

/* One line that has come before. */
struct bench_known {
    char line[128];
    const struct bench_case *of;
    void *prepared;
    unsigned size;
    uint64_t count;
};

static volatile uint64_t bench_sink; /* takes what must not be optimized away */

static double bench_now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double bench_time(const struct bench_known *known) {
    double start = bench_now();
    known->of->run(known->prepared, known->count);
    return bench_now() - start;
}

static void bench_fail(const char *what) {
    printf("%s\n", what);
    exit(1);
}

/* Callgrind is told to dump its counts whenever this is entered: bench/instructions.lua. */
__attribute__((noinline)) static void bench_mark(void) {
    __asm__ volatile("");
}

/* Prepares the case of a new line and finds its count. */
static void bench_learn(struct bench_known *known, const struct bench_case *cases, double seconds) {
    char name[128];
    unsigned size = 1, threads = 1;
    (void)sscanf(known->line, "%127s %u %u %" SCNu64, name, &size, &threads, &known->count);
    for (known->of = cases; known->of->name != NULL && strcmp(known->of->name, name) != 0;) known->of++;
    if (known->of->name == NULL) bench_fail("no such case");
    known->size = size;
    known->prepared = known->of->prepare != NULL ? known->of->prepare(size, threads) : NULL;
    if (known->count != 0 || known->of->value != NULL) return;
    for (known->count = 1; bench_time(known) < seconds; known->count *= 2) continue;
}

/* Ends with its input. */
static int bench_serve(int count, char **arguments, const struct bench_case *cases) {
    static struct bench_known known[64];
    double seconds = count > 1 ? atof(arguments[1]) : 0.01;
    char line[128];
    unsigned used = 0;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin) != NULL) {
        unsigned i = 0;
        line[strcspn(line, "\n")] = '\0';
        while (i < used && strcmp(known[i].line, line) != 0) i++;
        if (i == used) {
            if (used++ == sizeof known / sizeof known[0]) bench_fail("too many cases in one process");
            (void)snprintf(known[i].line, sizeof known[i].line, "%s", line);
            bench_learn(&known[i], cases, seconds);
        }
        bench_mark();
        double value = known[i].of->value != NULL ? known[i].of->value(known[i].size)
                                                  : bench_time(&known[i]) / (double)known[i].count * 1e9;
        bench_mark();
        printf("%.17g\n", value);
    }
    return 0;
}

#endif
