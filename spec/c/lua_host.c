/* A host that embeds Lua: the bridge, and the library, which must stay when a lua_State is closed. The module is the
 * shared library that `require` finds, not the copy in this program, wherever the test is about loading. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <lualib.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "tidemark_lua.h"

int luaopen_tidemark_core(lua_State *L);

static lua_State *new_lua(void) {
    lua_State *L = luaL_newstate();
    if (L == NULL) abort();
    luaL_openlibs(L);
    return L;
}

/* A lua_State with the module of this program. */
static lua_State *new_linked(void) {
    lua_State *L = new_lua();
    luaL_requiref(L, "tidemark.core", luaopen_tidemark_core, 0);
    lua_settop(L, 0);
    return L;
}

static void run(lua_State *L, const char *code) {
    if (luaL_dostring(L, code)) CHECK_STR(lua_tostring(L, -1), "");
}

static const uint32_t shards[] = {0, 7};

static tidemark_state *new_state(void) {
    tidemark_state *state;
    if (tidemark_state_new(shards, 2, &state, NULL) != 0) abort();
    return state;
}

/* ---- the bridge ---- */

static int push_global_state(lua_State *L) {
    tidemark_state *state = lua_touserdata(L, lua_upvalueindex(1));
    tidemark_lua_push(L, state);
    return 1;
}

static int check_argument(lua_State *L) {
    lua_pushlightuserdata(L, tidemark_lua_check(L, (int)luaL_checkinteger(L, 1)));
    return 1;
}

/* The message of the error that `function` raises; its upvalue is `state`. */
static const char *error_of(lua_State *L, lua_CFunction function, tidemark_state *state) {
    lua_settop(L, 0);
    lua_pushlightuserdata(L, state);
    lua_pushcclosure(L, function, 1);
    return lua_pcall(L, 0, 0, 0) == LUA_OK ? "no error" : lua_tostring(L, -1);
}

static void a_state_goes_there_and_back(void) {
    lua_State *L = new_linked(), *other = new_linked();
    tidemark_state *state = new_state();
    tidemark_lua_push(L, state);
    tidemark_lua_push(L, state);
    tidemark_lua_push(other, state);
    CHECK_INT(lua_gettop(L), 2);
    CHECK(tidemark_lua_check(L, 1) == state && tidemark_lua_check(L, -1) == state);
    CHECK_INT(lua_gettop(L), 2);
    CHECK(lua_compare(L, 1, 2, LUA_OPEQ)); /* two handles of one state */
    CHECK(!lua_rawequal(L, 1, 2));
    lua_pop(L, 1);
    lua_setglobal(L, "state");
    lua_setglobal(other, "state");
    run(L, "assert(state:advance(7, 42)); state:close(); assert(not pcall(state.advance, state, 7, 43))");
    CHECK_INT(tidemark_state_applied_seqno(state, 7), 42);
    tidemark_state_release(state); /* the other lua_State has a reference of its own */
    lua_close(L);
    run(other, "assert(state:applied_seqno(7) == 42 and tostring(state) == 'ReplicationState(2 shards)')");
    lua_close(other);
}

static void a_wrong_value_is_refused(void) {
    lua_State *L = new_linked();
    lua_register(L, "check", check_argument);
    run(L, "R = require 'tidemark.core'.ReplicationState; s = R.new {0}; closed = R.new {0}; closed:close()\n"
           "local function message(...) local ok, m = pcall(check, ...) assert(not ok) return m end\n"
           "local function says(m, what) assert(m:find(what, 1, true), m) end\n"
           "assert(type(check(2, s)) == 'userdata')\n"
           "says(message(3, s), \"bad argument #3\")\n"
           "says(message(3, s), 'ReplicationState expected, got no value')\n"
           "says(message(2, 7), 'ReplicationState expected, got number')\n"
           "says(message(2, {}), 'ReplicationState expected, got table')\n"
           "says(message(2, io.stdout), 'ReplicationState expected, got userdata')\n"
           "says(message(2, closed), 'closed ReplicationState')\n");
    /* a light userdata, even one that points to a state */
    tidemark_state *state = new_state();
    lua_pushlightuserdata(L, state);
    lua_setglobal(L, "light");
    run(L, "assert(not pcall(check, 2, light))");
    tidemark_state_release(state);
    lua_close(L);
}

static void a_module_that_is_not_loaded_is_told(void) {
    lua_State *L = new_lua();
    tidemark_state *state = new_state();
    CHECK_STR(error_of(L, push_global_state, state), "tidemark is not loaded here: require 'tidemark.core' first");
    tidemark_state_release(state);
    lua_close(L);
}

static void another_abi_is_told(void) {
    lua_State *L = new_linked();
    tidemark_state *state = new_state();
    char expected[100];
    tidemark_lua_bridge other = *tidemark_lua_get_bridge(L);
    CHECK_STR(error_of(L, push_global_state, state), "no error");
    other.abi++;
    lua_pushlightuserdata(L, &other);
    lua_setfield(L, LUA_REGISTRYINDEX, TIDEMARK_LUA_BRIDGE);
    (void)snprintf(expected, sizeof expected, "tidemark.core has ABI %d, this program was built for %d",
                   TIDEMARK_ABI + 1, TIDEMARK_ABI);
    CHECK_STR(error_of(L, push_global_state, state), expected);
    tidemark_state_release(state);
    lua_close(L);
}

/* ---- the shared library, as `require` loads it ---- */

/* A state of the shared library's making, its files at `path`, retained here; its lua_State is closed. */
static tidemark_state *open_and_close_lua(const char *path, void **function) {
    lua_State *L = new_lua();
    lua_pushstring(L, path);
    lua_setglobal(L, "path");
    run(L, "state = assert(require 'tidemark.core'.ReplicationState.open(path, {0, 7}))");
    run(L, "state:advance(7, 42); assert(state:checkpoint()); return state");
    tidemark_state *state = tidemark_state_retain(tidemark_lua_check(L, -1));
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidemark.core");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "ReplicationState");
    lua_getfield(L, -1, "new");
    lua_CFunction made = lua_tocfunction(L, -1);
    memcpy(function, &made, sizeof made);
    lua_close(L);
    return state;
}

static void the_library_outlives_lua_close(void) {
    char directory[] = "/tmp/tidemark-spec.XXXXXX", path[64], live[80];
    if (mkdtemp(directory) == NULL) abort();
    (void)snprintf(path, sizeof path, "%s/state", directory);
    (void)snprintf(live, sizeof live, "%s.live", path);
    void *function, *again;
    Dl_info info, program;

    tidemark_state *state = open_and_close_lua(path, &function);
    CHECK(dladdr((void *)&shards, &program) != 0);
    CHECK(dladdr(function, &info) != 0); /* unloaded code is in no object */
    if (check_failures == 0) {
        CHECK(strstr(info.dli_fname, "core.so") != NULL);
        CHECK(info.dli_fbase != program.dli_fbase);
        /* the files are closed by a function of the library */
        tidemark_state_release(state);

        /* and a new lua_State finds everything in its place */
        state = open_and_close_lua(path, &again);
        CHECK(again == function);
        CHECK_INT(tidemark_state_applied_seqno(state, 7), 42);
        tidemark_state_release(state);
    }
    CHECK_INT(unlink(path), 0);
    CHECK_INT(unlink(live), 0);
    CHECK_INT(rmdir(directory), 0);
}

int main(void) {
    RUN(a_state_goes_there_and_back);
    RUN(a_wrong_value_is_refused);
    RUN(a_module_that_is_not_loaded_is_told);
    RUN(another_abi_is_told);
    RUN(the_library_outlives_lua_close);
    return FINISH();
}
