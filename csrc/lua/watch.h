/* The Lua class Watch. Internal to the module. */
#ifndef TIDEMARK_LUA_WATCH_H
#define TIDEMARK_LUA_WATCH_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Makes the metatable. */
void tidemark_watch_class(lua_State *L);

/* The method state:watch(shard, seqno). */
int tidemark_watch_method(lua_State *L);

#pragma GCC visibility pop

#endif
