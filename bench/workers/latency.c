/*
 * From an append to its record being there, durable, in another process. `read`: in a reader in C; `applied`: in a
 * follower in Lua, which has applied it and moved its mark. `bare`: what no such log can go below, one fdatasync of a
 * write of the same size and one futex wake of another process. Answers are microseconds; the size is the record's, in
 * bytes. Before each all are given time to fall asleep.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "disk.h"
#include "tidemark.h"

#define ROOM     65536   /* bytes, more than a batch */
#define BARE_LOG 1048576 /* bytes of the file that bare writes go round in */
#define CHILDREN 3

static struct shared {
    _Atomic(uint32_t) turn;       /* of the bare wake */
    _Atomic(int64_t) woken, read; /* turns and seqnos that are done */
    double woken_at, read_at;
} * shared;

static pid_t children[CHILDREN], parent;
static unsigned child_count;
static tidemark_error error;

static void must(int result) {
    if (result < 0) bench_fail(error.message);
}

static void end_children(void) {
    if (getpid() != parent) return;
    for (unsigned i = 0; i < child_count; i++) {
        (void)kill(children[i], SIGKILL);
        (void)waitpid(children[i], NULL, 0);
    }
}

static void need_shared(void) {
    if (shared != NULL) return;
    disk_need_directory();
    parent = getpid();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) disk_fail("mmap");
    (void)atexit(end_children); /* before the directory is removed */
}

static void start(void (*body)(void)) {
    pid_t pid = fork();
    if (pid < 0) disk_fail("fork");
    if (pid == 0) {
        body();
        _exit(1);
    }
    children[child_count++] = pid;
}

/* ---- children ---- */

static void be_woken(void) {
    for (uint32_t turn = 0;; turn++) {
        while (atomic_load(&shared->turn) == turn)
            (void)syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn, NULL, NULL, 0);
        shared->woken_at = bench_now();
        atomic_store(&shared->woken, (int64_t)turn + 1);
    }
}

static void read_log(void) {
    static unsigned char bytes[ROOM];
    tidemark_wal_reader *reader;
    tidemark_batch batch;
    must(tidemark_wal_reader_open(disk_path("log"), 0, 0, 0, &reader, &error));
    for (;;) {
        must(tidemark_wal_reader_wait(reader, -1, &batch, &error));
        must(tidemark_wal_reader_read(reader, bytes, &batch, &error));
        shared->read_at = bench_now();
        atomic_store(&shared->read, batch.first_seqno);
    }
}

static FILE *follower; /* what bench/workers/follow_live.lua prints */

static void start_follower(void) {
    int ends[2];
    const char *lua = getenv("TIDEMARK_LUA");
    if (pipe2(ends, O_CLOEXEC) < 0 || (follower = fdopen(ends[0], "r")) == NULL) disk_fail("pipe");
    pid_t pid = fork();
    if (pid < 0) disk_fail("fork");
    if (pid == 0) {
        if (lua == NULL) lua = "lua5.4";
        (void)dup2(ends[1], 1);
        (void)execlp(lua, lua, "bench/workers/follow_live.lua", disk_path("log"), disk_path("marks"), (char *)NULL);
        _exit(1);
    }
    children[child_count++] = pid;
    (void)close(ends[1]);
}

static void wait_until(const _Atomic(int64_t) *done, int64_t least) {
    for (int tries = 0; atomic_load(done) < least; tries++) {
        if (tries == 100000) bench_fail("the other process has not seen it");
        (void)usleep(50);
    }
}

/* ---- cases ---- */

static void let_sleep(void) {
    (void)usleep(2000);
}

static tidemark_wal *wal;
static int64_t last_seqno;

static void need_log(void) {
    const uint32_t shard = 0;
    tidemark_wal_options options = {.shards = &shard, .shard_count = 1};
    need_shared();
    if (wal == NULL) must(tidemark_wal_open(disk_path("log"), &options, &wal, &error));
}

/* Appends one record and gives when it began. */
static double append(unsigned size) {
    static char bytes[ROOM / 2];
    tidemark_record record = {bytes, size};
    if (size > sizeof bytes) bench_fail("too large a record");
    let_sleep();
    double start_at = bench_now();
    must(tidemark_wal_append(wal, 0, &record, 1, NULL, &last_seqno, &error));
    return start_at;
}

static double read_case(unsigned size) {
    static bool started;
    need_log();
    if (!started) start(read_log);
    started = true;
    double start_at = append(size);
    wait_until(&shared->read, last_seqno);
    return (shared->read_at - start_at) * 1e6;
}

static double applied(unsigned size) {
    char line[128];
    long long seqno = 0;
    double at = 0;
    need_log();
    if (follower == NULL) start_follower();
    double start_at = append(size);
    while (seqno < last_seqno) { /* at first also earlier ones */
        if (fgets(line, sizeof line, follower) == NULL || sscanf(line, "%lld %lf", &seqno, &at) != 2)
            bench_fail("the follower has failed");
    }
    return (at - start_at) * 1e6;
}

static double bare(unsigned size) {
    static char bytes[ROOM];
    static int fd = -1;
    static off_t offset;
    static int64_t turns;
    if (fd < 0) {
        need_shared();
        fd = open(disk_path("bare"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0) disk_fail("open");
        for (off_t at = 0; at < BARE_LOG; at += 4096)
            disk_write(fd, bytes, 4096, at); /* as segments have zeros ahead */
        if (fsync(fd) < 0) disk_fail("fsync");
        start(be_woken);
    }
    size_t length = size + TIDEMARK_BATCH_HEADER + 4; /* of a batch */
    if (offset + (off_t)length > BARE_LOG) offset = 0;
    let_sleep();
    double start_at = bench_now();
    disk_write(fd, bytes, length, offset);
    if (fdatasync(fd) < 0) disk_fail("fdatasync");
    (void)atomic_fetch_add(&shared->turn, 1);
    (void)syscall(SYS_futex, &shared->turn, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    offset += (off_t)length;
    wait_until(&shared->woken, ++turns);
    return (shared->woken_at - start_at) * 1e6;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {{"read", NULL, NULL, read_case},
                                              {"applied", NULL, NULL, applied},
                                              {"bare", NULL, NULL, bare},
                                              {NULL, NULL, NULL, NULL}};
    return bench_serve(count, arguments, cases);
}
