/*
 * How fast a log is verified, from the page cache: GB/s of tidemark_wal_verify beside those of a bare loop that reads
 * the same bytes with pread and takes their CRC32C. Both run in turn, so that what disturbs the machine meets both.
 * Prints medians and the quartiles of the ratio; asserts nothing.
 *
 *     verify [megabytes of log] [bytes of a record] [rounds]
 */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../csrc/core/crc32c.h"
#include "tidemark.h"

#define BATCH  1000   /* records */
#define BLOCK  262144 /* bytes that the bare loop reads at once */
#define ROUNDS 101    /* at most */

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

static double now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
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

/* GB/s of a verify. */
static double verify(uint64_t *bytes) {
    tidemark_wal_report report;
    tidemark_error error;
    double start = now();
    must(tidemark_wal_verify(directory, &report, &error), &error);
    *bytes = report.bytes;
    return (double)report.bytes / (now() - start) / 1e9;
}

/* GB/s of reading and checksumming, and no more. */
static double read_and_check(uint64_t *bytes, uint32_t *crc) {
    static unsigned char block[BLOCK];
    char pattern[64];
    glob_t found;
    (void)snprintf(pattern, sizeof pattern, "%s/*.wal", directory);
    double start = now();
    *bytes = 0;
    if (glob(pattern, 0, NULL, &found) != 0) exit(1);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
        ssize_t length;
        for (off_t at = 0; (length = pread(fd, block, BLOCK, at)) > 0; at += length, *bytes += (uint64_t)length)
            *crc = tidemark_crc32c(*crc, block, (size_t)length);
        (void)close(fd);
    }
    globfree(&found);
    return (double)*bytes / (now() - start) / 1e9;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

int main(int count, char **arguments) {
    unsigned long megabytes = count > 1 ? strtoul(arguments[1], NULL, 10) : 256;
    size_t record_size = count > 2 ? strtoul(arguments[2], NULL, 10) : 128;
    int rounds = count > 3 ? atoi(arguments[3]) : 15;
    double verified[ROUNDS], bare[ROUNDS], ratio[ROUNDS];
    uint64_t verified_bytes = 0, bare_bytes = 0;
    uint32_t crc = 0;
    if (rounds < 1 || rounds > ROUNDS || record_size == 0 || megabytes == 0) return 1;
    if (mkdtemp(directory) == NULL) return 1;
    (void)atexit(clean_up);
    write_log((uint64_t)megabytes * 1000000, record_size);
    for (int i = -1; i < rounds; i++) { /* the first one warms up */
        double first = verify(&verified_bytes), second = read_and_check(&bare_bytes, &crc);
        if (i < 0) continue;
        verified[i] = first;
        bare[i] = second;
        ratio[i] = first / second;
    }
    qsort(verified, (size_t)rounds, sizeof *verified, compare);
    qsort(bare, (size_t)rounds, sizeof *bare, compare);
    qsort(ratio, (size_t)rounds, sizeof *ratio, compare);
    printf("verify: %" PRIu64 " MB of %zu-byte records in batches of %d: %.2f GB/s, pread + CRC %.2f GB/s, ratio %.2f "
           "(quartiles %.2f..%.2f, %d rounds)\n",
           verified_bytes / 1000000, record_size, BATCH, verified[rounds / 2], bare[rounds / 2], ratio[rounds / 2],
           ratio[rounds / 4], ratio[rounds - 1 - rounds / 4], rounds);
    if (verified_bytes != bare_bytes)
        printf("verify: it read %" PRIu64 " bytes, the bare loop %" PRIu64 "\n", verified_bytes, bare_bytes);
    return 0;
}
