/* The Lua class Batch. Internal to the module. */
#ifndef TIDEMARK_LUA_BATCH_H
#define TIDEMARK_LUA_BATCH_H

#include <lua.h>

#include "tidemark.h"

#pragma GCC visibility push(hidden)

/* Makes the metatable and pushes the class, a table of constructors and methods. */
void tidemark_batch_class(lua_State *L);

/* Pushes a batch without bytes, with room for `size` of them at the pointer that is returned. It is of use only after
 * tidemark_batch_finish, when they are there. */
unsigned char *tidemark_batch_push(lua_State *L, size_t size);
void tidemark_batch_finish(lua_State *L, int index, const tidemark_batch *batch);

/* The origin that the table at `index` says: {log_id, epoch, first_seqno}. `argument` is the one that it is part of. */
tidemark_origin tidemark_check_origin(lua_State *L, int argument, int index);

#pragma GCC visibility pop

#endif
