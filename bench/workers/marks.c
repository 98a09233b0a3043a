/*
 * tidemark's C API as a contender: marks, snapshots, checkpoint bytes, memory. bench/peers/rust does the same work in
 * the same order.
 */
#define _DEFAULT_SOURCE 1 /* mallinfo2 */
#include <malloc.h>
#include <pthread.h>

#include "../../csrc/core/crc32c.h"
#include "serve.h"
#include "tidemark.h"

#define MOST_THREADS 8

struct prepared {
    tidemark_state *state;
    unsigned size, threads;
    uint32_t *order; /* the shards 0..size-1 in a random order */
    int64_t seqno;   /* rises from run to run */
    tidemark_mark *marks;
    char *bytes;
    size_t bytes_size;
    int64_t bytes_length;
};

static tidemark_state *new_state(unsigned size) {
    tidemark_state *state;
    uint32_t *shards = malloc(size * sizeof *shards);
    if (shards == NULL) bench_fail("no memory");
    for (uint32_t i = 0; i < size; i++) shards[i] = i;
    if (tidemark_state_new(shards, size, &state, NULL) < 0) bench_fail("tidemark_state_new failed");
    free(shards);
    return state;
}

static void *prepare(unsigned size, unsigned threads) {
    struct prepared *made = calloc(1, sizeof *made);
    if (made == NULL || threads > MOST_THREADS) bench_fail("too much");
    made->state = new_state(size);
    made->size = size;
    made->threads = threads;
    made->seqno = INT64_C(1) << 40; /* a length as marks have after years */
    made->order = malloc(size * sizeof *made->order);
    made->marks = malloc(size * sizeof *made->marks);
    made->bytes_size = TIDEMARK_CHECKPOINT_SIZE(size);
    made->bytes = malloc(made->bytes_size);
    if (made->order == NULL || made->marks == NULL || made->bytes == NULL) bench_fail("no memory");
    uint64_t random = 1;
    for (uint32_t i = 0; i < size; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t other = (uint32_t)((random >> 33) % (i + 1));
        made->order[i] = made->order[other];
        made->order[other] = i;
        (void)tidemark_state_advance(made->state, i, made->seqno + (int64_t)i);
    }
    made->seqno += size;
    made->bytes_length = tidemark_state_to_checkpoint_bytes(made->state, made->bytes, made->bytes_size);
    return made;
}

static void run_read(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    uint64_t sum = 0;
    for (uint32_t at = 0; count > 0; count--) {
        sum += (uint64_t)tidemark_state_applied_seqno(made->state, made->order[at]);
        if (++at == made->size) at = 0;
    }
    bench_sink = sum;
}

static void run_stale(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    uint64_t moved = 0;
    for (uint32_t at = 0; count > 0; count--) {
        moved += (uint64_t)tidemark_state_advance(made->state, made->order[at], 1);
        if (++at == made->size) at = 0;
    }
    bench_sink = moved;
}

static void run_rising(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    uint64_t moved = 0;
    for (uint32_t at = 0; count > 0; count--) {
        moved += (uint64_t)tidemark_state_advance(made->state, made->order[at], ++made->seqno);
        if (++at == made->size) at = 0;
    }
    bench_sink = moved;
}

/* ---- threads: each on a shard of its own, neighbours ---- */

struct job {
    struct prepared *made;
    uint32_t shard;
    uint64_t count;
};

static void *advance_own(void *argument) {
    struct job job = *(struct job *)argument;
    for (int64_t seqno = job.made->seqno + 1; job.count > 0; job.count--, seqno++)
        (void)tidemark_state_advance(job.made->state, job.shard, seqno);
    return NULL;
}

static void *read_own(void *argument) {
    struct job job = *(struct job *)argument;
    uint64_t sum = 0;
    for (; job.count > 0; job.count--) sum += (uint64_t)tidemark_state_applied_seqno(job.made->state, job.shard);
    bench_sink = sum;
    return NULL;
}

static void run_threads(struct prepared *made, uint64_t count, void *(*body)(void *)) {
    pthread_t ids[MOST_THREADS];
    struct job jobs[MOST_THREADS];
    for (unsigned i = 0; i < made->threads; i++) {
        jobs[i] = (struct job){made, i, count};
        if (pthread_create(&ids[i], NULL, body, &jobs[i]) != 0) bench_fail("no thread");
    }
    for (unsigned i = 0; i < made->threads; i++) (void)pthread_join(ids[i], NULL);
    made->seqno += (int64_t)count;
}

static void run_advance_threads(void *prepared, uint64_t count) {
    run_threads(prepared, count, advance_own);
}

static void run_read_threads(void *prepared, uint64_t count) {
    run_threads(prepared, count, read_own);
}

/* ---- whole states ---- */

static void run_snapshot(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    for (; count > 0; count--) bench_sink = tidemark_state_snapshot(made->state, made->marks, made->size);
}

static void run_encode(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    for (; count > 0; count--)
        bench_sink = (uint64_t)tidemark_state_to_checkpoint_bytes(made->state, made->bytes, made->bytes_size);
}

/* Bytes to a state of the same shards. */
static void run_decode(void *prepared, uint64_t count) {
    struct prepared *made = prepared;
    uint32_t *shards = malloc(made->size * sizeof *shards);
    if (shards == NULL) bench_fail("no memory");
    for (uint32_t i = 0; i < made->size; i++) shards[i] = i;
    for (; count > 0; count--) {
        tidemark_state *state;
        if (tidemark_state_from_checkpoint_bytes(made->bytes, (size_t)made->bytes_length, shards, made->size, &state,
                                                 NULL) < 0)
            bench_fail("tidemark_state_from_checkpoint_bytes failed");
        tidemark_state_release(state);
    }
    free(shards);
}

static void *prepare_bytes(unsigned size, unsigned threads) {
    (void)threads;
    char *bytes = calloc(1, (size_t)size * 1024);
    if (bytes == NULL) bench_fail("no memory");
    return bytes;
}

/* Of one KiB. */
static void run_crc32c(void *prepared, uint64_t count) {
    uint32_t crc = 0;
    for (; count > 0; count--) crc = tidemark_crc32c(crc, prepared, 1024);
    bench_sink = crc;
}

/* Bytes of the heap that a state takes: the mean of several, for a few bytes more or less are malloc's. */
static double memory(unsigned size) {
    unsigned copies = 1 + 100000 / size;
    tidemark_state **states = malloc(copies * sizeof(tidemark_state *));
    if (states == NULL) bench_fail("no memory");
    struct mallinfo2 before = mallinfo2();
    for (unsigned i = 0; i < copies; i++) states[i] = new_state(size);
    struct mallinfo2 after = mallinfo2();
    for (unsigned i = 0; i < copies; i++) tidemark_state_release(states[i]);
    free(states);
    return ((double)(after.uordblks + after.hblkhd) - (double)(before.uordblks + before.hblkhd)) / copies;
}

/* What the slots and the index alone take. */
static double memory_limit(unsigned size) {
    return 64.0 * size + 2.0 * size;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {
        {"read", prepare, run_read, NULL},
        {"stale", prepare, run_stale, NULL},
        {"rising", prepare, run_rising, NULL},
        {"advance_threads", prepare, run_advance_threads, NULL},
        {"read_threads", prepare, run_read_threads, NULL},
        {"snapshot", prepare, run_snapshot, NULL},
        {"encode", prepare, run_encode, NULL},
        {"decode", prepare, run_decode, NULL},
        {"crc32c", prepare_bytes, run_crc32c, NULL},
        {"memory", NULL, NULL, memory},
        {"memory_limit", NULL, NULL, memory_limit},
        {NULL, NULL, NULL, NULL},
    };
    return bench_serve(count, arguments, cases);
}
