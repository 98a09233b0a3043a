/*
 * How fast a log is verified, from the page cache: tidemark_wal_verify beside a bare loop that reads the same bytes
 * with pread and takes their CRC32C, which is the limit. The size of a case is that of a record, in bytes; the answer
 * is nanoseconds per KiB.
 */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <glob.h>
#include <unistd.h>

#include "../../csrc/core/crc32c.h"
#include "serve.h"
#include "tidemark.h"

#define BATCH     1000     /* records */
#define LOG_BYTES 64000000 /* of records */
#define BLOCK     262144   /* bytes that the bare loop reads at once */

static char directory[] = "/tmp/tidemark-bench.XXXXXX";

/* Removes what was made. */
static void clean_up(void) {
    char pattern[64];
    glob_t found;
    (void)snprintf(pattern, sizeof pattern, "%s/*", directory);
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) (void)unlink(found.gl_pathv[i]);
        globfree(&found);
    }
    (void)rmdir(directory);
}

static void must(int result, const tidemark_error *error) {
    if (result >= 0) return;
    (void)fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static void write_log(uint64_t bytes, size_t record_size) {
    static const uint32_t shard = 0;
    tidemark_wal_options options = {.shards = &shard, .shard_count = 1, .unsynced = 1};
    tidemark_record records[BATCH];
    tidemark_wal *wal;
    tidemark_error error;
    char *text = malloc(record_size * BATCH + 1);
    if (text == NULL) exit(1);
    for (size_t i = 0; i < record_size * BATCH; i++) text[i] = (char)rand();
    for (size_t i = 0; i < BATCH; i++) records[i] = (tidemark_record){text + i * record_size, record_size};
    must(tidemark_wal_open(directory, &options, &wal, &error), &error);
    for (uint64_t written = 0; written < bytes; written += record_size * BATCH)
        must(tidemark_wal_append(wal, 0, records, BATCH, NULL, NULL, &error), &error);
    must(tidemark_wal_close(wal, &error), &error);
    free(text);
}

/* One log serves both cases, made at the first. */
static void need_log(unsigned record_size) {
    static unsigned made;
    if (made == record_size) return;
    if (made != 0) bench_fail("one size of record in one process");
    if (mkdtemp(directory) == NULL) bench_fail("no directory");
    (void)atexit(clean_up);
    write_log(LOG_BYTES, record_size);
    made = record_size;
}

static double ns_per_kib(double start, uint64_t bytes) {
    return (bench_now() - start) / (double)bytes * 1024e9;
}

static double verify(unsigned record_size) {
    tidemark_wal_report report;
    tidemark_error error;
    need_log(record_size);
    double start = bench_now();
    must(tidemark_wal_verify(directory, &report, &error), &error);
    return ns_per_kib(start, report.bytes);
}

/* Reading and checksumming, and no more. */
static double read_and_check(unsigned record_size) {
    static unsigned char block[BLOCK];
    char pattern[64];
    glob_t found;
    uint64_t bytes = 0;
    uint32_t crc = 0;
    need_log(record_size);
    (void)snprintf(pattern, sizeof pattern, "%s/*.wal", directory);
    double start = bench_now();
    if (glob(pattern, 0, NULL, &found) != 0) bench_fail("no segments");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
        ssize_t length;
        for (off_t at = 0; (length = pread(fd, block, BLOCK, at)) > 0; at += length, bytes += (uint64_t)length)
            crc = tidemark_crc32c(crc, block, (size_t)length);
        (void)close(fd);
    }
    globfree(&found);
    bench_sink = crc;
    return ns_per_kib(start, bytes);
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {
        {"verify", NULL, NULL, verify},
        {"pread_crc", NULL, NULL, read_and_check},
        {NULL, NULL, NULL, NULL},
    };
    return bench_serve(count, arguments, cases);
}
