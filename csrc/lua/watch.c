/* The Lua class Watch, what state:watch gives: argument checks and results around tidemark.h. */
#include "watch.h"

#include "arguments.h"
#include "replication_state.h"

#define METATABLE "tidemark.Watch"

struct handle {
    tidemark_watch *watch; /* NULL: closed */
    uint32_t shard;
    int64_t seqno;
};

static tidemark_watch *check_watch(lua_State *L) {
    const struct handle *handle = luaL_checkudata(L, 1, METATABLE);
    if (handle->watch == NULL) luaL_argerror(L, 1, "closed Watch");
    return handle->watch;
}

int tidemark_watch_method(lua_State *L) {
    tidemark_error error;
    (void)tidemark_replication_state_check(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t seqno = tidemark_check_seqno(L, 3);
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (struct handle){NULL, shard, seqno};
    luaL_setmetatable(L, METATABLE);
    tidemark_state *state =
        tidemark_replication_state_check(L, 1); /* again: a finalizer may have closed it meanwhile */
    if (tidemark_state_watch(state, shard, seqno, &handle->watch, &error) < 0) return tidemark_push_failure(L, &error);
    return 1;
}

static int watch_ready(lua_State *L) {
    lua_pushboolean(L, tidemark_watch_ready(check_watch(L)));
    return 1;
}

static int watch_fd(lua_State *L) {
    tidemark_error error;
    int fd = tidemark_watch_fd(check_watch(L), &error);
    if (fd < 0) return tidemark_push_failure(L, &error);
    lua_pushinteger(L, fd);
    return 1;
}

static int watch_close(lua_State *L) {
    struct handle *handle = luaL_checkudata(L, 1, METATABLE);
    tidemark_watch *watch = handle->watch;
    handle->watch = NULL;
    tidemark_watch_close(watch);
    return 0;
}

static int watch_tostring(lua_State *L) {
    const struct handle *handle = luaL_checkudata(L, 1, METATABLE);
    if (handle->watch == NULL) lua_pushliteral(L, "Watch(closed)");
    else lua_pushfstring(L, "Watch(shard %d, seqno %I)", (int)handle->shard, (LUAI_UACINT)handle->seqno);
    return 1;
}

void tidemark_watch_class(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"ready", watch_ready},
        {"fd", watch_fd},
        {"close", watch_close},
        {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__gc", watch_close},
        {"__close", watch_close},
        {"__tostring", watch_tostring},
        {NULL, NULL},
    };
    luaL_newmetatable(L, METATABLE);
    luaL_setfuncs(L, metamethods, 0);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
