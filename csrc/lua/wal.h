/* The Lua class Wal, with its readers. Internal to the module. */
#ifndef TIDEMARK_LUA_WAL_H
#define TIDEMARK_LUA_WAL_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Makes the metatables and pushes the class, a table of constructors and methods. */
void tidemark_wal_class(lua_State *L);

#pragma GCC visibility pop

#endif
