/* Out of memory in the core, at every allocation in turn: an error is returned, nothing leaks, nothing has changed. The
 * core's sources are included here, so that they call the allocator below. */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIDEMARK_ALLOC_H <stdlib.h>
#define tidemark_malloc  failing_malloc
#define tidemark_calloc  failing_calloc
#define tidemark_free    counting_free

static long blocks;      /* not yet freed */
static long spare = -1;  /* allocations until they fail; below 0: they do not */
static long allocations; /* of the running call */

static bool fails(void) {
    allocations++;
    if (spare == 0) return true;
    if (spare > 0) spare--;
    return false;
}

static void *failing_malloc(size_t size) {
    if (fails()) return NULL;
    void *block = malloc(size);
    blocks += block != NULL;
    return block;
}

static void *failing_calloc(size_t count, size_t size) {
    if (fails()) return NULL;
    void *block = calloc(count, size);
    blocks += block != NULL;
    return block;
}

static void counting_free(void *block) {
    blocks -= block != NULL;
    free(block);
}

#include "../../csrc/core/checkpoint.c"
#include "../../csrc/core/checkpoint_file.c"
#include "../../csrc/core/crc32c.c"
#include "../../csrc/core/error.c"
#include "../../csrc/core/io.c"
#include "../../csrc/core/live_file.c"
#include "../../csrc/core/notes.c"
#include "../../csrc/core/state.c"
#include "../../csrc/core/state_file.c"
#include "../../csrc/core/state_save.c"
#include "../../csrc/core/wait.c"
#include "../../csrc/core/watch.c"

#include "check.h"

static const uint32_t shards[] = {3, 0, 65535};
#define COUNT 3

static char path[64]; /* of a state file in a directory of its own */
static tidemark_state *subject;

static int descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) abort();
    while (readdir(directory) != NULL) count++;
    (void)closedir(directory);
    return count;
}

/* Makes `call` fail at its first allocation, then from its second on, and so on until it succeeds, `least` allocations
 * later at the earliest. */
static void fail_each(int (*call)(tidemark_error *error), int least) {
    for (int n = 0;; n++) {
        tidemark_error error = {0, ""};
        tidemark_mark before[COUNT], after[COUNT];
        const long blocks_before = blocks;
        const int descriptors_before = descriptors();
        size_t count = subject != NULL ? tidemark_state_snapshot(subject, before, COUNT) : 0;
        allocations = 0;
        spare = n;
        int result = call(&error);
        spare = -1;
        if (result >= 0 || allocations == 0) {
            CHECK_INT(result < 0 ? error.code : 0, 0);
            CHECK(n >= least);
            return;
        }
        CHECK_INT(result, TIDEMARK_ENOMEM);
        CHECK_INT(error.code, TIDEMARK_ENOMEM);
        CHECK(strstr(error.message, "no memory") != NULL);
        CHECK_INT(blocks, blocks_before);
        CHECK_INT(descriptors(), descriptors_before);
        CHECK_INT(subject != NULL ? tidemark_state_snapshot(subject, after, COUNT) : 0, count);
        for (size_t i = 0; i < count; i++)
            CHECK(before[i].shard == after[i].shard && before[i].seqno == after[i].seqno);
        if (check_failures > 20) return;
    }
}

/* Each makes a state, looks at it and drops it. */
static int taken(int result, tidemark_state *const *made, int64_t mark) {
    tidemark_state *state = *made;
    if (result < 0) return result;
    CHECK_INT(tidemark_state_count(state), COUNT);
    CHECK_INT(tidemark_state_applied_seqno(state, 3), mark);
    tidemark_state_release(state);
    return 0;
}

static int call_new(tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_new(shards, COUNT, &state, error), &state, 0);
}

static int call_clone(tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_clone(subject, &state, error), &state, 42);
}

static int from_text(const char *text, tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_from_checkpoint_bytes(text, strlen(text), shards, COUNT, &state, error), &state, 7);
}

static int call_from_bytes(tidemark_error *error) {
    return from_text("{\"3\":7,\"0\":1}", error);
}

static int call_open(tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_open(path, shards, COUNT, 0, &state, error), &state, 42);
}

static int call_open_first(tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_open(path, shards, COUNT, 0, &state, error), &state, 0);
}

static int call_open_readonly(tidemark_error *error) {
    tidemark_state *state = NULL;
    return taken(tidemark_state_open(path, NULL, 0, TIDEMARK_OPEN_READONLY, &state, error), &state, 42);
}

static int call_checkpoint(tidemark_error *error) {
    const tidemark_note notes[] = {{0, 3, "abc"}, {3, 0, ""}, {65535, 1, "x"}};
    return tidemark_state_checkpoint(subject, notes, 3, error);
}

static int call_note(tidemark_error *error) {
    char note[TIDEMARK_NOTE_MAX];
    int length = tidemark_state_note(subject, 0, note, error);
    if (length >= 0) CHECK(length == 3 && memcmp(note, "abc", 3) == 0);
    return length;
}

static int call_watch(tidemark_error *error) {
    tidemark_watch *watch = NULL;
    int result = tidemark_state_watch(subject, 3, 43, &watch, error);
    if (result == 0) result = tidemark_watch_fd(watch, error);
    tidemark_watch_close(watch);
    return result;
}

/* The list of watches is made for the first descriptor, so the state is made anew each time. */
static int call_first_watch(tidemark_error *error) {
    tidemark_state *state;
    int result = tidemark_state_new(shards, COUNT, &state, error);
    if (result < 0) return result;
    tidemark_watch *watch = NULL;
    result = tidemark_state_watch(state, 3, 43, &watch, error);
    if (result == 0) result = tidemark_watch_fd(watch, error);
    tidemark_watch_close(watch);
    tidemark_state_release(state);
    return result;
}

/* A child has a list of its own, and frees the one that it has inherited as well. Without memory for it, it advances
 * nevertheless. */
static void watches_of_a_child(void) {
    tidemark_watch *watch = NULL, *own = NULL;
    int status;
    CHECK_INT(tidemark_state_new(shards, COUNT, &subject, NULL), 0);
    CHECK_INT(tidemark_state_watch(subject, 3, 43, &watch, NULL), 0);
    CHECK(tidemark_watch_fd(watch, NULL) >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        spare = 0;
        CHECK_INT(tidemark_state_advance(subject, 3, 43), 1);
        CHECK_INT(tidemark_state_applied_seqno(subject, 3), 43);
        spare = -1;
        CHECK_INT(tidemark_state_watch(subject, 3, 44, &own, NULL), 0);
        CHECK(tidemark_watch_fd(own, NULL) >= 0);
    }
    tidemark_watch_close(own);
    tidemark_watch_close(watch);
    tidemark_state_release(subject);
    CHECK_INT(blocks, 0);
    if (pid == 0) _exit(check_failures != 0);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void in_memory(void) {
    subject = NULL;
    fail_each(call_new, 1);
    fail_each(call_from_bytes, 2);
    CHECK_INT(tidemark_state_new(shards, COUNT, &subject, NULL), 0);
    CHECK_INT(tidemark_state_advance(subject, 3, 42), 1);
    fail_each(call_clone, 3);
    fail_each(call_first_watch, 3);
    CHECK_INT(call_watch(NULL) >= 0, 1);
    fail_each(call_watch, 1);
    tidemark_state_release(subject);
    CHECK_INT(blocks, 0);
}

static void malformed_bytes_leak_nothing(void) {
    const char *texts[] = {"", "{", "{\"3\":7,\"3\":7}", "{\"3\":7,\"0\":1,\"0\":1}", "{\"3\":7}x"};
    tidemark_error error;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        CHECK_INT(from_text(texts[i], &error), TIDEMARK_ECORRUPT);
    CHECK_INT(blocks, 0);
}

static void backed_by_files(void) {
    char directory[] = "/tmp/tidemark-spec.XXXXXX", live[80];
    if (mkdtemp(directory) == NULL) abort();
    (void)snprintf(path, sizeof path, "%s/state", directory);
    (void)snprintf(live, sizeof live, "%s.live", path);

    subject = NULL;
    fail_each(call_open_first, 2);
    CHECK_INT(tidemark_state_open(path, shards, COUNT, 0, &subject, NULL), 0);
    CHECK_INT(tidemark_state_advance(subject, 3, 42), 1);
    fail_each(call_open, 2); /* attached elsewhere in this process */
    fail_each(call_open_readonly, 2);
    fail_each(call_checkpoint, 2);
    fail_each(call_checkpoint, 2); /* now there are notes to merge with */
    fail_each(call_note, 0);
    tidemark_state_release(subject);

    /* anew, from the checkpoint alone; a note is then read from it */
    subject = NULL;
    CHECK_INT(unlink(live), 0);
    fail_each(call_open_readonly, 2);
    fail_each(call_open, 2);
    CHECK_INT(tidemark_state_open(path, shards, COUNT, 0, &subject, NULL), 0);
    CHECK_INT(tidemark_state_applied_seqno(subject, 3), 42);
    fail_each(call_note, 0);
    fail_each(call_checkpoint, 2);
    tidemark_state_release(subject);
    CHECK_INT(blocks, 0);
    CHECK_INT(unlink(path), 0);
    CHECK_INT(unlink(live), 0);
    CHECK_INT(rmdir(directory), 0);
}

int main(void) {
    RUN(in_memory);
    RUN(malformed_bytes_leak_nothing);
    RUN(watches_of_a_child);
    RUN(backed_by_files);
    return FINISH();
}
