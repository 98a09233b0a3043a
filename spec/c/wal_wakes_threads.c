/* Readers of a log sleep until its writer wakes them, in whatever process they are, and end by interrupts. Linked with
 * --wrap=syscall: where a test says so, a sleep has no end of its own, so that one lost wake is a sleep until the
 * alarm. Under ThreadSanitizer too. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "../../csrc/core/wal_source.h"
#include "wal_files.h"

/* Of all processes. */
static struct shared {
    _Atomic(int) sleeps;   /* that were begun */
    _Atomic(int) received; /* batches */
} * shared;
static bool endless;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

long __wrap_syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) arguments[i] = va_arg(list, long);
    va_end(list);
    bool sleeps = number == SYS_futex && ((int)arguments[1] & FUTEX_CMD_MASK) == FUTEX_WAIT;
    if (sleeps && endless) arguments[3] = 0;
    if (sleeps) atomic_fetch_add(&shared->sleeps, 1);
    long result =
        __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    if (sleeps && result < 0 && errno != EAGAIN && errno != ETIMEDOUT && errno != EINTR) abort(); /* it would spin */
    return result;
}

static void a_moment(void) {
    static const struct timespec moment = {0, 200000};
    (void)nanosleep(&moment, NULL);
}

static void until(const _Atomic(int) *count, int least) {
    while (atomic_load(count) < least) a_moment();
}

static void begin_wakes(void) {
    begin_log_test();
    if (shared == NULL) shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) abort();
    memset(shared, 0, sizeof *shared);
    endless = false;
}

static pid_t start(void (*body)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        (void)alarm(60);
        body();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    if (pid < 0) abort();
    return pid;
}

static int finish(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) abort();
    return status;
}

static void append(tidemark_wal *wal, uint32_t shard) {
    static const tidemark_record record = {"0123456789", 10};
    CHECK_INT(tidemark_wal_append(wal, shard, &record, 1, NULL, NULL, &failure), 0);
}

static tidemark_wal *open_writer(int unsynced) {
    tidemark_wal_options options = log_options(1000, unsynced);
    tidemark_wal *wal;
    if (tidemark_wal_open(directory, &options, &wal, &failure) < 0) abort();
    return wal;
}

static tidemark_wal_source *open_source(void) {
    tidemark_wal_source *source;
    if (tidemark_wal_source_open(directory, &source, &failure) < 0) abort();
    return source;
}

static int64_t next(tidemark_wal_reader *reader, double timeout) {
    unsigned char bytes[400];
    tidemark_batch batch;
    int code = tidemark_wal_reader_wait(reader, timeout, &batch, &failure);
    if (code == 0) code = tidemark_wal_reader_read(reader, bytes, &batch, &failure);
    return code < 0 ? code : batch.first_seqno;
}

/* ---- woken by another process ---- */

#define TURNS 150

static void read_without_end(void) {
    tidemark_wal_reader *reader;
    CHECK_INT(tidemark_wal_reader_open(directory, 1, 0, 0, &reader, &failure), 0);
    endless = true;
    for (int i = 1; i <= TURNS; i++) {
        CHECK_INT(next(reader, i % 2 ? -1 : 1000), i);
        atomic_store(&shared->received, i);
    }
    tidemark_wal_reader_close(reader);
}

static void every_append_wakes_a_reader(void) {
    tidemark_wal *wal = open_writer(0);
    pid_t pid = start(read_without_end);
    for (int i = 1; i <= TURNS; i++) {
        until(&shared->sleeps, i); /* it is about to sleep, or asleep */
        if (i % 3 == 0) a_moment();
        append(wal, 1);
        until(&shared->received, i);
    }
    CHECK_INT(finish(pid), 0);
    CHECK(atomic_load(&shared->sleeps) <= 2 * TURNS); /* a wake may come late and find it asleep again */
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

static void wait_without_end(void) {
    tidemark_mark marks[] = {{1, 0}, {2, 0}, {5, 0}, {77, 0}}; /* the last one is not there */
    tidemark_wal_source *source = open_source();
    endless = true;
    for (int i = 1; i <= TURNS; i++) {
        uint32_t shard = 0;
        CHECK_INT(tidemark_wal_source_wait(source, marks, 4, -1, &shard, &failure), 0);
        CHECK_INT(shard, log_shards[i % LOG_SHARDS]);
        for (int j = 0; j < LOG_SHARDS; j++) marks[j].seqno += marks[j].shard == shard;
        atomic_store(&shared->received, i);
    }
    tidemark_wal_source_close(source);
}

/* Appends are made durable later here, all shards sleep on one word. */
static void every_sync_wakes_a_source(void) {
    tidemark_wal *wal = open_writer(1);
    pid_t pid = start(wait_without_end);
    for (int i = 1; i <= TURNS; i++) {
        until(&shared->sleeps, i);
        append(wal, log_shards[i % LOG_SHARDS]);
        CHECK_INT(tidemark_wal_sync(wal, &failure), 0);
        until(&shared->received, i);
    }
    CHECK_INT(finish(pid), 0);
    CHECK(atomic_load(&shared->sleeps) <= 2 * TURNS);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

/* ---- what a wake does not tell ---- */

/* Killed when the head has moved and nobody is woken yet. */
static void publish_and_die(void) {
    tidemark_wal *wal = open_writer(1);
    int before = atomic_load(&shared->sleeps);
    until(&shared->sleeps, before + 2); /* asleep with the flags of this writer */
    append(wal, 1);
    CHECK(tidemark_slot_advance(tidemark_state_slot(tidemark_wal_heads(wal), 1), 2));
    (void)kill(getpid(), SIGKILL);
}

static void a_writer_that_was_killed_before_the_wake(void) {
    tidemark_wal *wal = open_writer(0);
    append(wal, 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    tidemark_wal_source *source = open_source();
    tidemark_wal_reader *reader;
    CHECK_INT(tidemark_wal_source_reader(source, 1, 1, &reader, &failure), 0);
    tidemark_wal_source_close(source);
    pid_t pid = start(publish_and_die);
    CHECK_INT(next(reader, -1), 2);
    CHECK(WIFSIGNALED(finish(pid)));
    tidemark_wal_reader_close(reader);
}

/* As after a restart of the machine: the live marks are of another boot. */
static void replace_heads(void) {
    char name[192];
    until(&shared->sleeps, 2);
    (void)snprintf(name, sizeof name, "%s/heads.live", directory);
    if (unlink(name) < 0) abort();
    tidemark_wal *wal = open_writer(0);
    append(wal, 1);
    until(&shared->received, 1);
    append(wal, 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

static void heads_that_are_replaced(void) {
    tidemark_wal *wal = open_writer(0);
    append(wal, 1);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    tidemark_wal_source *source = open_source();
    tidemark_wal_reader *first, *second;
    uint32_t shard = 0;
    CHECK_INT(tidemark_wal_source_reader(source, 1, 1, &first, &failure), 0);
    CHECK_INT(tidemark_wal_source_reader(source, 1, 0, &second, &failure), 0);
    CHECK_INT(next(second, 0), 1);
    pid_t pid = start(replace_heads);
    CHECK_INT(next(first, -1), 2);
    CHECK_INT(next(second, -1), 2); /* which finds that the source has other heads */
    atomic_store(&shared->received, 1);
    const tidemark_mark mark = {1, 2};
    CHECK_INT(tidemark_wal_source_wait(source, &mark, 1, -1, &shard, &failure), 0);
    CHECK_INT(next(second, 0), 3);
    CHECK_INT(next(first, 0), 3);
    CHECK_INT(finish(pid), 0);
    tidemark_wal_source_close(source);
    tidemark_wal_reader_close(first);
    tidemark_wal_reader_close(second);
}

/* ---- interrupts ---- */

static tidemark_wal_source *interrupted;

static void interrupt(int signal) {
    (void)signal;
    tidemark_wal_source_interrupt(interrupted);
}

static void *interrupt_a_sleeper(void *sleeps) {
    until(&shared->sleeps, *(int *)sleeps);
    tidemark_wal_source_interrupt(interrupted);
    return NULL;
}

static void interrupts(void) {
    tidemark_wal *wal = open_writer(0);
    tidemark_wal_reader *reader;
    pthread_t thread;
    uint32_t shard = 0;
    interrupted = open_source();
    CHECK_INT(tidemark_wal_source_reader(interrupted, 1, 0, &reader, &failure), 0);
    const tidemark_mark marks[] = {{1, 0}, {2, 0}}, wrong[] = {{65536, 0}}, negative[] = {{1, -1}};

    int sleeps = atomic_load(&shared->sleeps) + 1;
    if (pthread_create(&thread, NULL, interrupt_a_sleeper, &sleeps) != 0) abort();
    CHECK_INT(tidemark_wal_source_wait(interrupted, marks, 2, -1, &shard, &failure), TIDEMARK_EINTERRUPTED);
    (void)pthread_join(thread, NULL);
    sleeps = atomic_load(&shared->sleeps) + 1;
    if (pthread_create(&thread, NULL, interrupt_a_sleeper, &sleeps) != 0) abort();
    CHECK_INT(next(reader, -1), TIDEMARK_EINTERRUPTED);
    (void)pthread_join(thread, NULL);
    CHECK_INT(next(reader, 0.06), TIDEMARK_ETIMEOUT);

    struct sigaction action = {.sa_handler = interrupt};
    const struct itimerval soon = {.it_value = {0, 30000}};
    if (sigaction(SIGALRM, &action, NULL) < 0) abort();
    (void)setitimer(ITIMER_REAL, &soon, NULL);
    CHECK_INT(next(reader, -1), TIDEMARK_EINTERRUPTED);
    (void)signal(SIGALRM, SIG_DFL);
    (void)alarm(60);

    /* what is there counts more than an interrupt, which is not lost */
    tidemark_wal_source_interrupt(interrupted);
    append(wal, 1);
    CHECK_INT(next(reader, -1), 1);
    CHECK_INT(tidemark_wal_source_wait(interrupted, marks, 2, -1, &shard, &failure), 0);
    CHECK_INT(shard, 1);
    CHECK_INT(next(reader, 0), TIDEMARK_ETIMEOUT); /* one that only looks leaves it for the next */
    CHECK_INT(next(reader, 0.001), TIDEMARK_EINTERRUPTED);
    CHECK_INT(next(reader, 0), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_wal_source_wait(interrupted, marks + 1, 1, 0.06, &shard, &failure), TIDEMARK_ETIMEOUT);
    CHECK_INT(tidemark_wal_source_wait(interrupted, wrong, 1, 0, &shard, &failure), TIDEMARK_EINVAL);
    CHECK_INT(tidemark_wal_source_wait(interrupted, negative, 1, 0, &shard, NULL), TIDEMARK_EINVAL);
    tidemark_wal_source_close(interrupted);
    tidemark_wal_source_close(NULL);
    tidemark_wal_reader_close(reader);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
}

#define RUN_WAKES(test) \
    do { \
        begin_wakes(); \
        RUN(test); \
    } while (0)

int main(void) {
    (void)alarm(60); /* instead of a sleep without end */
    make_directory();
    RUN_WAKES(every_append_wakes_a_reader);
    RUN_WAKES(every_sync_wakes_a_source);
    RUN_WAKES(a_writer_that_was_killed_before_the_wake);
    RUN_WAKES(heads_that_are_replaced);
    RUN_WAKES(interrupts);
    return FINISH();
}
