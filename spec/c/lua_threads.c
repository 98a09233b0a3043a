/* Four lua_States on four threads share one state by the bridge: exact maxima, and data that C code wrote before a Lua
 * script advanced is there for the script that reads the mark, waits for it or watches it. Run under ThreadSanitizer as
 * well, and there with a planted race (spec/c/mutants/lua_relaxed.c). */
#define _XOPEN_SOURCE 700 /* barriers */
#include <lualib.h>
#include <poll.h>
#include <unistd.h>

#include "state_threads.h"
#include "tidemark_lua.h"

int luaopen_tidemark_core(lua_State *L);

/* write(shard, m) and right(shard, m): plain memory, which only the mark orders. */
static int write_record(lua_State *L) {
    lua_Integer shard = luaL_checkinteger(L, 1), m = luaL_checkinteger(L, 2);
    records[shard][m] = (int)m;
    return 0;
}

static int right_record(lua_State *L) {
    lua_Integer shard = luaL_checkinteger(L, 1), m = luaL_checkinteger(L, 2);
    lua_pushboolean(L, records[shard][m] == m);
    return 1;
}

/* poll(fd): until it is readable. */
static int poll_readable(lua_State *L) {
    struct pollfd poll_fd = {(int)luaL_checkinteger(L, 1), POLLIN, 0};
    lua_pushboolean(L, poll(&poll_fd, 1, -1) == 1);
    return 1;
}

/* `state`, `own` (a thread's number) and `LAST` are globals. By methods and by bound closures in turn. */
static const char script[] = "local seen = {[0] = 0, 0, 0, 0}\n"
                             "local advance, applied = {}, {}\n"
                             "for shard = 0, 3 do advance[shard], applied[shard] = state:bind(shard) end\n"
                             "for m = 1, LAST do\n"
                             "  write(own, m)\n"
                             "  if m % 2 == 0 then assert(state:advance(own, m)) else assert(advance[own](m)) end\n"
                             "  for shard = 0, 3 do\n"
                             "    local mark = m % 3 == 0 and applied[shard]() or state:applied_seqno(shard)\n"
                             "    assert(mark >= seen[shard] and right(shard, mark) and right(shard, mark // 2))\n"
                             "    seen[shard] = mark\n"
                             "  end\n"
                             "  state:advance(4, m * 4 + own)\n" /* one shard for all */
                             "  assert(state:applied_seqno(4) >= m * 4 + own)\n"
                             "  if m % 100 == 0 then\n"
                             "    state:advance_all {[5] = m, [6] = own}\n"
                             "    local clone, marks = state:clone(), state:snapshot()\n"
                             "    for shard, mark in pairs(clone) do assert(mark <= marks[shard]) end\n"
                             "    clone:close()\n"
                             "  end\n"
                             "  if m % 10 == 0 then\n" /* who is last never sleeps */
                             "    local other = (own + m) % 4\n"
                             "    assert(state:wait_for(other, m - 9) and right(other, m - 9))\n"
                             "    local watch = state:watch(other, m - 5)\n"
                             "    assert(poll(watch:fd()) and watch:ready() and right(other, m - 5))\n"
                             "    watch:close()\n"
                             "    watch = state:watch(other, m + 7)\n" /* left to the collector */
                             "    if watch:fd() and watch:ready() then assert(right(other, m + 7)) end\n"
                             "  end\n"
                             "end\n"
                             "state:close()\n";

static void *run_script(void *number) {
    lua_State *L = luaL_newstate();
    if (L == NULL) abort();
    luaL_openlibs(L);
    luaL_requiref(L, "tidemark.core", luaopen_tidemark_core, 0);
    tidemark_lua_push(L, shared);
    lua_setglobal(L, "state");
    lua_pushinteger(L, *(int *)number);
    lua_setglobal(L, "own");
    lua_pushinteger(L, RECORDS);
    lua_setglobal(L, "LAST");
    lua_register(L, "write", write_record);
    lua_register(L, "right", right_record);
    lua_register(L, "poll", poll_readable);
    long failed = luaL_dostring(L, script);
    if (failed) printf("    thread %d: %s\n", *(int *)number, lua_tostring(L, -1));
    tidemark_state_release(shared); /* the thread's own reference: a bound closure may now hold the last one */
    lua_close(L);
    return (void *)failed;
}

static void lua_states_share_a_state(void) {
    static const uint32_t shards[] = {0, 1, 2, 3, 4, 5, 6};
    if (tidemark_state_new(shards, 7, &shared, NULL) != 0) abort();
    memset(records, 0, sizeof records);
    for (int i = 0; i < THREADS; i++) (void)tidemark_state_retain(shared);
    CHECK_INT(on_threads(run_script), 0);
    for (uint32_t shard = 0; shard < THREADS; shard++) CHECK_INT(tidemark_state_applied_seqno(shared, shard), RECORDS);
    CHECK_INT(tidemark_state_applied_seqno(shared, 4), RECORDS * 4 + 3);
    CHECK_INT(tidemark_state_applied_seqno(shared, 5), RECORDS);
    CHECK_INT(tidemark_state_applied_seqno(shared, 6), 3);
    tidemark_state_release(shared);
}

int main(void) {
    (void)alarm(300); /* instead of a wait without end */
    RUN(lua_states_share_a_state);
    return FINISH();
}
