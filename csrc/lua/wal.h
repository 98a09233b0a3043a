/* The Lua class Wal, with its readers and sources. Internal to the module. */
#ifndef TIDEMARK_LUA_WAL_H
#define TIDEMARK_LUA_WAL_H

#include <lua.h>

#pragma GCC visibility push(hidden)

/* Makes the metatables and pushes the class, a table of constructors and methods. */
void tidemark_wal_class(lua_State *L);

/* Makes the metatables of readers and sources, and sets `reader` and `source` in the table on top of the stack. */
void tidemark_wal_source_functions(lua_State *L);

/* Pushes a new metatable whose __gc and __close are `close`. */
void tidemark_wal_metatable(lua_State *L, const char *name, lua_CFunction close);

#pragma GCC visibility pop

#endif
