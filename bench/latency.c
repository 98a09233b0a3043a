/*
 * How long it takes from an append to its record being there in another process, durable: a reader in C that has it,
 * and a follower in Lua that has applied it and moved its mark. Beside it, in turn, what no such log can go below: one
 * fdatasync of a write of the same size and one futex wake of another process. Prints medians in microseconds and their
 * ratio; asserts nothing. The follower needs the module where TIDEMARK_LUA's paths lead, as `make bench` sets them.
 *
 *     latency [rounds] [bytes of a record]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tidemark.h"

#define ROUNDS   5000 /* at most */
#define ROOM     1048576
#define WARM_UP  20
#define CHILDREN 3

static char directory[] = "tidemark-bench.XXXXXX"; /* where it is run: /tmp may be in memory */
static pid_t children[CHILDREN], parent;

static struct shared {
    _Atomic(uint32_t) turn; /* of the bare wake */
    _Atomic(uint32_t) woken, read;
    double woken_at, read_at;
} * shared;

static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void clean_up(void) {
    char pattern[64];
    glob_t found;
    if (getpid() != parent) return;
    for (int i = 0; i < CHILDREN; i++) {
        if (children[i] <= 0) continue;
        (void)kill(children[i], SIGKILL);
        (void)waitpid(children[i], NULL, 0);
    }
    (void)snprintf(pattern, sizeof pattern, "%s/*", directory);
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) (void)unlink(found.gl_pathv[i]);
        globfree(&found);
    }
    (void)rmdir(directory);
}

static void must(int result, const tidemark_error *error) {
    if (result >= 0) return;
    (void)fprintf(stderr, "latency: %s\n", error->message);
    exit(1);
}

/* ---- children ---- */

static void be_woken(void) {
    for (uint32_t turn = 0;; turn++) {
        while (atomic_load(&shared->turn) == turn)
            (void)syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn, NULL, NULL, 0);
        shared->woken_at = now();
        atomic_store(&shared->woken, turn + 1);
    }
}

static void read_log(void) {
    tidemark_wal_reader *reader;
    tidemark_batch batch;
    tidemark_error error;
    static unsigned char bytes[ROOM];
    must(tidemark_wal_reader_open(directory, 0, 0, 0, &reader, &error), &error);
    for (uint32_t count = 1;; count++) {
        must(tidemark_wal_reader_wait(reader, -1, &batch, &error), &error);
        must(tidemark_wal_reader_read(reader, bytes, &error), &error);
        shared->read_at = now();
        atomic_store(&shared->read, count);
    }
}

/* Prints a line when it is there, and one with the time for each step that has applied. */
static const char follower[] =
    "local directory = ... "
    "local now = require('tidemark.core').clock.now "
    "local state = assert(require('tidemark.replication_state').open(directory .. '/marks', { 0 })) "
    "local follower = assert(require('tidemark.follower').new { state = state, "
    "  source = assert(require('tidemark.wal').source(directory)), apply = function() return true end }) "
    "io.stdout:setvbuf 'line' print 'ready' "
    "while true do if follower:step(60) > 0 then print(('%.9f'):format(now())) end end";

static FILE *follow_in_lua(void) {
    const char *lua = getenv("TIDEMARK_LUA");
    char script[64], line[64];
    int ends[2];
    if (lua == NULL) lua = "lua5.4";
    (void)snprintf(script, sizeof script, "%s/follow.lua", directory);
    FILE *file = fopen(script, "w");
    if (file == NULL || fputs(follower, file) < 0 || fclose(file) != 0 || pipe(ends) < 0) exit(1);
    children[2] = fork();
    if (children[2] == 0) {
        (void)dup2(ends[1], 1);
        (void)close(ends[0]);
        (void)execlp(lua, lua, script, directory, (char *)NULL);
        _exit(1);
    }
    (void)close(ends[1]);
    FILE *output = fdopen(ends[0], "r");
    return output != NULL && fgets(line, sizeof line, output) != NULL ? output : NULL;
}

static pid_t start(void (*body)(void)) {
    pid_t pid = fork();
    if (pid == 0) body();
    if (pid < 0) exit(1);
    return pid;
}

static void until(const _Atomic(uint32_t) *count, uint32_t least) {
    static const struct timespec moment = {0, 50000};
    while (atomic_load(count) < least) (void)nanosleep(&moment, NULL);
}

/* ---- one round of each, seconds ---- */

static double bare(int fd, off_t at, const void *bytes, size_t size, uint32_t turn) {
    double start_at = now();
    if (pwrite(fd, bytes, size, at) != (ssize_t)size || fdatasync(fd) < 0) exit(1);
    (void)atomic_fetch_add(&shared->turn, 1);
    (void)syscall(SYS_futex, &shared->turn, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    until(&shared->woken, turn);
    return shared->woken_at - start_at;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2] * 1e6;
}

int main(int count, char **arguments) {
    static const uint32_t shard = 0;
    static const struct timespec pause = {0, 2000000}; /* so that all are asleep again */
    static unsigned char bytes[ROOM / 2];
    static double bares[ROUNDS], reads[ROUNDS], applies[ROUNDS];
    int rounds = count > 1 ? atoi(arguments[1]) : 300;
    size_t size = count > 2 ? strtoul(arguments[2], NULL, 10) : 128;
    tidemark_wal_options options = {.shards = &shard, .shard_count = 1};
    tidemark_wal *wal;
    tidemark_error error;
    char name[64], line[64];
    if (rounds < 1 || rounds > ROUNDS || size == 0 || size > sizeof bytes - 128) return 1;
    parent = getpid();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || mkdtemp(directory) == NULL) return 1;
    (void)atexit(clean_up);
    must(tidemark_wal_open(directory, &options, &wal, &error), &error);
    (void)snprintf(name, sizeof name, "%s/bare", directory);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; i < 64; i++) /* as segments are: filled with zeros beforehand */
        if (fd < 0 || pwrite(fd, bytes, sizeof bytes, (off_t)(i * (long)sizeof bytes)) < 0) return 1;
    (void)fsync(fd);
    children[0] = start(be_woken);
    children[1] = start(read_log);
    FILE *lua = follow_in_lua();
    const tidemark_record record = {bytes, size};
    size_t written = size + TIDEMARK_BATCH_HEADER + 4; /* of a batch */
    for (int i = -WARM_UP; i < rounds; i++) {
        int at = i < 0 ? 0 : i;
        uint32_t turn = (uint32_t)(i + WARM_UP + 1);
        (void)nanosleep(&pause, NULL);
        bares[at] = bare(fd, (off_t)((turn * written) % (63 * sizeof bytes)), bytes, written, turn);
        (void)nanosleep(&pause, NULL);
        double start_at = now();
        must(tidemark_wal_append(wal, 0, &record, 1, NULL, NULL, &error), &error);
        until(&shared->read, turn);
        reads[at] = shared->read_at - start_at;
        if (lua != NULL && fgets(line, sizeof line, lua) != NULL) applies[at] = strtod(line, NULL) - start_at;
        else lua = NULL;
    }
    double base = median(bares, rounds), read = median(reads, rounds);
    printf("latency: fdatasync + futex wake %.0f us; append to read %.0f us, ratio %.2f", base, read, read / base);
    if (lua != NULL) {
        double applied = median(applies, rounds);
        printf("; to applied in Lua %.0f us, ratio %.2f", applied, applied / base);
    } else {
        printf("; no follower in Lua: is the module there?");
    }
    printf(" (medians of %d, %zu-byte records)\n", rounds, size);
    return 0;
}
