/* Out of memory in Lua, at every allocation of every binding function in turn: an error is raised, the state stands as
 * it did, and no reference, descriptor or block is lost (the core's own blocks are counted by LeakSanitizer). */
#define _GNU_SOURCE
#include <dirent.h>
#include <lualib.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../csrc/core/state.h"
#include "check.h"
#include "tidemark_lua.h"

int luaopen_tidemark_core(lua_State *L);

struct memory {
    long blocks;      /* not yet freed */
    long spare;       /* allocations until they fail; below 0: they do not */
    long allocations; /* that were asked for */
};

/* Lua relies on shrinking never to fail. */
static void *allocate(void *user, void *block, size_t old_size, size_t size) {
    struct memory *memory = user;
    if (size == 0) {
        memory->blocks -= block != NULL;
        free(block);
        return NULL;
    }
    if (block == NULL || size > old_size) {
        memory->allocations++;
        if (memory->spare == 0) return NULL;
        if (memory->spare > 0) memory->spare--;
    }
    void *moved = realloc(block, size);
    memory->blocks += block == NULL && moved != NULL;
    return moved;
}

static int descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) abort();
    while (readdir(directory) != NULL) count++;
    (void)closedir(directory);
    return count;
}

static char path[64]; /* of a state file */
static tidemark_state *shared;

#define COUNT 200 /* enough that checkpoint bytes need more than a luaL_Buffer has in itself */

static int push_shared(lua_State *L) {
    tidemark_lua_push(L, shared);
    return 1;
}

/* Runs before memory grows short. */
static const char prelude[] = "R = require 'tidemark.core'.ReplicationState\n"
                              "shards, marks = {}, {}\n"
                              "for shard = 0, 199 do shards[shard + 1], marks[shard] = shard, 9 end\n"
                              "bytes = state:to_checkpoint_bytes()\n"
                              "file = assert(R.open(path, {0, 1}))\n"
                              "notes = {[0] = 'a', [1] = 'b'}\n"
                              "closed = R.new {}; closed:close()\n"
                              "next_shard = pairs(state)\n"
                              "unknown, moved = {[4711] = 1}, {[0] = 5}\n";

/* Each is called with memory growing short at each of its allocations in turn; `true` marks those that may need none.
 */
static const struct {
    const char *code;
    int may_need_none;
} calls[] = {
    {"R.new(shards)", 0},
    {"R.single()", 0},
    {"R.from_checkpoint_bytes(bytes, shards)", 0},
    {"R.from_checkpoint_bytes('{}x', shards)", 0},
    {"R.open(path, shards)", 0},
    {"R.open(path, nil, {readonly = true})", 0},
    {"R.open(path .. '.none', nil, {create = false})", 0},
    {"state:clone()", 0},
    {"file:clone()", 0},
    {"state:snapshot()", 0},
    {"state:shards()", 0},
    {"state:to_checkpoint_bytes()", 0},
    {"state:bind(7)", 0},
    {"state:bind(4711)", 0},
    {"state:advance(4711, 1)", 0},
    {"state:advance_all(marks)", 0},
    {"state:advance_all(unknown)", 0},
    {"file:checkpoint(notes)", 0},
    {"file:checkpoint()", 1},
    {"file:note(0)", 1},
    {"state:watch(7, 9):fd()", 0},
    {"state:watch(4711, 9)", 0},
    {"file:watch(0, 9):ready()", 0},
    {"tostring(state)", 0},
    {"tostring(closed)", 1},
    {"pairs(state)", 1},
    {"next_shard(state)", 1},
    {"push_shared()", 0},
    {"require_again()", 0},
};

static int require_again(lua_State *L) {
    luaL_requiref(L, "tidemark.again", luaopen_tidemark_core, 0);
    return 1;
}

/* A lua_State with all that a call needs; the call itself is on its stack. */
static lua_State *begin(struct memory *memory, const char *code) {
    char chunk[200];
    lua_State *L = lua_newstate(allocate, memory);
    if (L == NULL) abort();
    luaL_openlibs(L);
    luaL_requiref(L, "tidemark.core", luaopen_tidemark_core, 0);
    lua_pushstring(L, path);
    lua_setglobal(L, "path");
    lua_register(L, "push_shared", push_shared);
    lua_register(L, "require_again", require_again);
    (void)push_shared(L);
    lua_setglobal(L, "state");
    lua_settop(L, 0);
    (void)snprintf(chunk, sizeof chunk, "local _ = %s", code);
    if (luaL_dostring(L, prelude) || luaL_loadstring(L, chunk)) {
        printf("    %s: %s\n", code, lua_tostring(L, -1));
        abort();
    }
    return L;
}

/* Whether the call went through with n allocations. */
static int run_with(const char *code, long n, long *allocations) {
    struct memory memory = {0, -1, 0};
    tidemark_mark before[COUNT], after[COUNT];
    const int descriptors_before = descriptors();
    lua_State *L = begin(&memory, code);
    (void)tidemark_state_snapshot(shared, before, COUNT);
    memory.allocations = 0;
    memory.spare = n;
    int status = lua_pcall(L, 0, 0, 0);
    memory.spare = -1;
    *allocations = memory.allocations;
    if (status != 0) {
        CHECK_STR(lua_tostring(L, -1), "not enough memory");
        (void)tidemark_state_snapshot(shared, after, COUNT);
        for (int i = 0; i < COUNT; i++) CHECK(before[i].shard == after[i].shard && before[i].seqno == after[i].seqno);
        lua_settop(L, 0);
        /* nothing is broken for later: with memory again the same call goes through */
        char chunk[200];
        (void)snprintf(chunk, sizeof chunk, "local _ = %s", code);
        if (luaL_dostring(L, chunk)) CHECK_STR(lua_tostring(L, -1), "");
    }
    lua_close(L);
    CHECK_INT(memory.blocks, 0);
    CHECK_INT(descriptors(), descriptors_before);
    CHECK_INT(shared->references, 1);
    return status == 0;
}

static void every_function_without_memory(void) {
    uint32_t shards[COUNT];
    char directory[] = "/tmp/tidemark-spec.XXXXXX", live[80];
    for (uint32_t i = 0; i < COUNT; i++) shards[i] = i;
    if (mkdtemp(directory) == NULL) abort();
    (void)snprintf(path, sizeof path, "%s/state", directory);
    (void)snprintf(live, sizeof live, "%s.live", path);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        for (long n = 0;; n++) {
            long allocations;
            if (tidemark_state_new(shards, COUNT, &shared, NULL) != 0) abort();
            int done = run_with(calls[i].code, n, &allocations);
            tidemark_state_release(shared);
            if (check_failures > 0) printf("    %s, from allocation %ld on\n", calls[i].code, n + 1);
            if (check_failures > 10) return;
            if (done) {
                if (!calls[i].may_need_none && n == 0) CHECK_STR(calls[i].code, "something that allocates");
                break;
            }
        }
    }
    CHECK_INT(unlink(path), 0);
    CHECK_INT(unlink(live), 0);
    CHECK_INT(rmdir(directory), 0);
}

int main(void) {
    RUN(every_function_without_memory);
    return FINISH();
}
