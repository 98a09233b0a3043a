/* The Lua class ReplicationState. Internal to the module. */
#ifndef TIDEMARK_LUA_REPLICATION_STATE_H
#define TIDEMARK_LUA_REPLICATION_STATE_H

#include "tidemark_lua.h"

#pragma GCC visibility push(hidden)

/* Makes the metatable and pushes the class, a table of constructors and methods. */
void tidemark_replication_state_class(lua_State *L);

/* What the bridge of tidemark_lua.h calls; contracts there. */
void tidemark_replication_state_push(lua_State *L, tidemark_state *state);
tidemark_state *tidemark_replication_state_check(lua_State *L, int index);

#pragma GCC visibility pop

#endif
