/* Checks of arguments and the form of failures, for all classes of the module. Internal. */
#ifndef TIDEMARK_LUA_ARGUMENTS_H
#define TIDEMARK_LUA_ARGUMENTS_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>

#include "tidemark.h"

#pragma GCC visibility push(hidden)

_Static_assert(sizeof(lua_Integer) == 8, "seqnos need 64-bit Lua integers");

/* nil, message, code; or raises where it is the caller's mistake or there is no memory. */
int tidemark_push_failure(lua_State *L, const tidemark_error *error);

/* luaL_checkinteger in fewer steps where it is one; the calls below are hot. */
static inline lua_Integer tidemark_check_integer(lua_State *L, int index) {
    int is_integer;
    lua_Integer value = lua_tointegerx(L, index, &is_integer);
    return is_integer ? value : luaL_checkinteger(L, index); /* which raises */
}

/* The shard id and the seqno that is argument `index`. */
static inline uint32_t tidemark_check_shard(lua_State *L, int index) {
    lua_Integer shard = tidemark_check_integer(L, index);
    if (shard < 0 || shard > TIDEMARK_SHARD_MAX)
        luaL_argerror(L, index, lua_pushfstring(L, "shard id out of range: %I", (LUAI_UACINT)shard));
    return (uint32_t)shard;
}

static inline int64_t tidemark_check_seqno(lua_State *L, int index) {
    lua_Integer seqno = tidemark_check_integer(L, index);
    if (seqno < 0) luaL_argerror(L, index, lua_pushfstring(L, "seqno out of range: %I", (LUAI_UACINT)seqno));
    return seqno;
}

/* The path that is argument `index`: not empty, no zero byte. */
const char *tidemark_check_path(lua_State *L, int index);

/* The time-out that is argument `index`: seconds, or -1 for ever, which nil stands for. */
lua_Number tidemark_check_timeout(lua_State *L, int index);

/* The value at `index`, part of the table that is argument `argument`, as an integer from 0 to `most`. `what` names it
 * in messages. */
lua_Integer tidemark_check_element(lua_State *L, int argument, int index, lua_Integer most, const char *what);

/* The same for a boolean. */
bool tidemark_check_boolean(lua_State *L, int argument, int index, const char *what);

/* The array of shard ids at `index`, which is not relative, in a userdata that is pushed. */
const uint32_t *tidemark_check_shards(lua_State *L, int index, int argument, size_t *count);

/* The array of strings at `index`, which is not relative, in a userdata that is pushed. The bytes are the table's: they
 * are good until Lua code can change it, so also only until the next allocation, which may run finalizers. */
const tidemark_record *tidemark_check_records(lua_State *L, int argument, int index, size_t *count);

/* How many entries the table at `index` has. */
size_t tidemark_count_entries(lua_State *L, int index);

/* The table of shard to seqno at `index`, which is not relative, in a userdata that is pushed. */
const tidemark_mark *tidemark_check_marks(lua_State *L, int argument, int index, size_t *count);

/* What is said of a table that a finalizer added to after its entries were counted. */
#define TIDEMARK_TABLE_GREW "the table grew while it was read"

#pragma GCC visibility pop

#endif
