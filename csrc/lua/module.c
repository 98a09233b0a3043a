/* tidemark.core: the module's one entry, luaopen_tidemark_core. */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>

#include "batch.h"
#include "clock.h"
#include "replication_state.h"
#include "wal.h"
#include "watch.h"

static const tidemark_lua_bridge bridge = {
    TIDEMARK_ABI,
    tidemark_replication_state_push,
    tidemark_replication_state_check,
};

/* lua_close unloads C modules, but other lua_States, threads and C code may hold states whose functions lie in this
 * library. So it stays loaded. Where it is linked into a program there is nothing to pin and dlopen fails, which does
 * no harm. */
static void pin_library(void) {
    Dl_info info;
    if (dladdr(&bridge, &info) != 0) (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
}

__attribute__((visibility("default"))) int luaopen_tidemark_core(lua_State *L);

int luaopen_tidemark_core(lua_State *L) {
    pin_library();
    lua_pushlightuserdata(L, (void *)&bridge);
    lua_setfield(L, LUA_REGISTRYINDEX, TIDEMARK_LUA_BRIDGE);
    lua_createtable(L, 0, 6);
    lua_pushstring(L, tidemark_version());
    lua_setfield(L, -2, "VERSION");
    tidemark_replication_state_class(L);
    lua_setfield(L, -2, "ReplicationState");
    tidemark_watch_class(L);
    tidemark_clock_table(L);
    lua_setfield(L, -2, "clock");
    tidemark_batch_class(L);
    lua_setfield(L, -2, "Batch");
    tidemark_wal_class(L);
    lua_getfield(L, -1, "epoch_text");
    lua_setfield(L, -3, "epoch_text");
    lua_setfield(L, -2, "Wal");
    return 1;
}
