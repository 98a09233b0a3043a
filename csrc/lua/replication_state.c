/*
 * The Lua class ReplicationState: argument checks and results around tidemark.h and nothing else.
 *
 * A handle is a small userdata that holds one reference to a state, or none once it is closed. A caller's mistake
 * raises; what can happen to a correct program returns nil, message, code; no memory raises, as it does everywhere in
 * Lua. A function that makes something pushes a closed handle first and then fills it, so that nothing leaks when Lua
 * raises half-way.
 *
 * Whatever allocates in Lua may run finalizers, and a finalizer may close any handle and change any table. So a
 * function takes its state, and reads its tables, after its last allocation.
 */
#include "replication_state.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "../core/state.h"
#include "arguments.h"
#include "watch.h"

#define METATABLE "tidemark.ReplicationState"

struct handle {
    uint64_t magic;        /* HANDLE_MAGIC */
    tidemark_state *state; /* NULL: closed */
};

/* Random, so that no other library's userdata carries it; its low bits are the ABI. */
#define HANDLE_MAGIC (UINT64_C(0x9e51c7d2a3f84b00) + TIDEMARK_ABI)

/* ---- handles ---- */

/* The handle at `index`, or NULL. Cheaper than luaL_checkudata, which compares metatables. */
static struct handle *to_handle(lua_State *L, int index) {
    struct handle *handle = lua_touserdata(L, index);
    if (handle == NULL || lua_rawlen(L, index) != sizeof *handle || handle->magic != HANDLE_MAGIC) return NULL;
    return handle;
}

static struct handle *check_handle(lua_State *L, int index) {
    struct handle *handle = to_handle(L, index);
    if (handle == NULL)
        luaL_argerror(L, index, lua_pushfstring(L, "ReplicationState expected, got %s", luaL_typename(L, index)));
    return handle;
}

tidemark_state *tidemark_replication_state_check(lua_State *L, int index) {
    struct handle *handle = check_handle(L, index);
    if (handle->state == NULL) luaL_argerror(L, index, "closed ReplicationState");
    return handle->state;
}

/* Pushes a closed handle. */
static struct handle *push_handle(lua_State *L) {
    struct handle *handle = lua_newuserdata(L, sizeof *handle);
    handle->magic = HANDLE_MAGIC;
    handle->state = NULL;
    luaL_setmetatable(L, METATABLE);
    return handle;
}

void tidemark_replication_state_push(lua_State *L, tidemark_state *state) {
    struct handle *handle = push_handle(L); /* raises on no memory, so before there is a reference to lose */
    handle->state = tidemark_state_retain(state);
}

/* Ends a function that fills the handle on top of the stack. Lua's collector sees only the handle, so it is told of the
 * bytes behind it; otherwise dropped states would pile up between collections. */
static int return_new_state(lua_State *L, const struct handle *handle, int result, const tidemark_error *error) {
    if (result < 0) return tidemark_push_failure(L, error);
    if (lua_gc(L, LUA_GCISRUNNING, 0)) lua_gc(L, LUA_GCSTEP, (int)(handle->state->block_size / 1024 + 1));
    return 1;
}

/* ---- constructors ---- */

static int state_new(lua_State *L) {
    tidemark_error error;
    size_t count;
    const uint32_t *shards = tidemark_check_shards(L, 1, 1, &count);
    struct handle *handle = push_handle(L);
    return return_new_state(L, handle, tidemark_state_new(shards, count, &handle->state, &error), &error);
}

static int state_single(lua_State *L) {
    static const uint32_t shard = 0;
    tidemark_error error;
    struct handle *handle = push_handle(L);
    return return_new_state(L, handle, tidemark_state_new(&shard, 1, &handle->state, &error), &error);
}

static int state_from_checkpoint_bytes(lua_State *L) {
    tidemark_error error;
    size_t length, count;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *bytes = lua_tolstring(L, 1, &length);
    const uint32_t *shards = tidemark_check_shards(L, 2, 2, &count);
    struct handle *handle = push_handle(L);
    int result = tidemark_state_from_checkpoint_bytes(bytes, length, shards, count, &handle->state, &error);
    return return_new_state(L, handle, result, &error);
}

/* The flags of tidemark_state_open for the options table at `argument`. An option that does not exist raises: it is a
 * misspelt one. */
static unsigned check_open_options(lua_State *L, int argument) {
    unsigned flags = 0;
    if (lua_isnoneornil(L, argument)) return 0;
    luaL_checktype(L, argument, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, argument); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        bool create = strcmp(name, "create") == 0, readonly = strcmp(name, "readonly") == 0;
        if (!create && !readonly) luaL_argerror(L, argument, lua_pushfstring(L, "no such option: '%s'", name));
        if (!lua_isboolean(L, -1))
            luaL_argerror(L, argument, lua_pushfstring(L, "option '%s' must be a boolean", name));
        if (create && !lua_toboolean(L, -1)) flags |= TIDEMARK_OPEN_EXISTING;
        if (readonly && lua_toboolean(L, -1)) flags |= TIDEMARK_OPEN_READONLY;
    }
    return flags;
}

static int state_open(lua_State *L) {
    tidemark_error error;
    size_t count = 0;
    const uint32_t *shards = NULL;
    const char *path = tidemark_check_path(L, 1);
    unsigned flags = check_open_options(L, 3);
    /* without shards a new file would track nothing: only what exists can be opened so */
    if (flags == 0 || !lua_isnoneornil(L, 2)) shards = tidemark_check_shards(L, 2, 2, &count);
    struct handle *handle = push_handle(L);
    int result = tidemark_state_open(path, shards, count, flags, &handle->state, &error);
    return return_new_state(L, handle, result, &error);
}

static void push_slot(lua_State *L, const tidemark_slot_info *slot) {
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, (lua_Integer)slot->generation);
    lua_setfield(L, -2, "generation");
    lua_pushboolean(L, slot->why == NULL);
    lua_setfield(L, -2, "valid");
    if (slot->why != NULL) lua_pushstring(L, slot->why);
    else lua_pushinteger(L, (lua_Integer)slot->shards);
    lua_setfield(L, -2, slot->why != NULL ? "why" : "shards");
}

static int state_inspect(lua_State *L) {
    tidemark_error error;
    tidemark_state_info info;
    char id[33];
    const char *path = tidemark_check_path(L, 1);
    if (tidemark_state_inspect(path, &info, &error) < 0) return tidemark_push_failure(L, &error);
    lua_createtable(L, 2, 6);
    for (int number = 0; number < 2; number++) {
        push_slot(L, &info.slots[number]);
        lua_rawseti(L, -2, number);
    }
    for (int i = 0; i < 16; i++) (void)snprintf(id + 2 * i, 3, "%02x", info.id[i]);
    lua_pushstring(L, id);
    lua_setfield(L, -2, "id");
    if (info.checkpoint >= 0) {
        lua_pushinteger(L, info.checkpoint);
        lua_setfield(L, -2, "checkpoint");
    }
    lua_pushboolean(L, info.live_why == NULL);
    lua_setfield(L, -2, "live");
    if (info.live_why != NULL) {
        lua_pushstring(L, info.live_why);
        lua_setfield(L, -2, "live_why");
        return 1;
    }
    lua_pushinteger(L, (lua_Integer)info.saved_generation);
    lua_setfield(L, -2, "saved_generation");
    lua_pushinteger(L, (lua_Integer)info.saving_generation);
    lua_setfield(L, -2, "saving_generation");
    lua_pushboolean(L, info.poisoned);
    lua_setfield(L, -2, "poisoned");
    return 1;
}

/* ---- methods ---- */

static int state_applied_seqno(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    int64_t mark = tidemark_state_applied_seqno(state, tidemark_check_shard(L, 2));
    if (mark >= 0) lua_pushinteger(L, mark);
    else lua_pushnil(L);
    return 1;
}

static int push_no_advance(lua_State *L, int code, uint32_t shard) {
    tidemark_error error;
    if (code == TIDEMARK_EUNKNOWN_SHARD) {
        (void)tidemark_fail_shard(&error, shard);
        return tidemark_push_failure(L, &error);
    }
    lua_pushnil(L);
    lua_pushliteral(L, "the state was opened to read");
    lua_pushstring(L, tidemark_code_name(code));
    return 3;
}

/* Hot: inline what tidemark_state_advance does, its checks done once. */
static int state_advance(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t seqno = tidemark_check_seqno(L, 3);
    struct tidemark_slot *slot = tidemark_state_slot(state, shard);
    if (slot == NULL) return push_no_advance(L, TIDEMARK_EUNKNOWN_SHARD, shard);
    if (state->readonly) return push_no_advance(L, TIDEMARK_EREADONLY, shard);
    lua_pushboolean(L, tidemark_state_advance_slot(state, slot, seqno));
    return 1;
}

static int state_advance_all(lua_State *L) {
    tidemark_error error;
    size_t count;
    (void)tidemark_replication_state_check(L, 1);
    const tidemark_mark *marks = tidemark_check_marks(L, 2, 2, &count);
    int moved = tidemark_state_advance_all(tidemark_replication_state_check(L, 1), marks, count, &error);
    if (moved < 0) return tidemark_push_failure(L, &error);
    lua_pushinteger(L, moved);
    return 1;
}

static int state_clone(lua_State *L) {
    tidemark_error error;
    (void)tidemark_replication_state_check(L, 1);
    struct handle *handle = push_handle(L);
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    return return_new_state(L, handle, tidemark_state_clone(state, &handle->state, &error), &error);
}

static int state_snapshot(lua_State *L) {
    lua_createtable(L, 0, (int)tidemark_state_count(tidemark_replication_state_check(L, 1)));
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    for (int shard = tidemark_state_next(state, -1); shard >= 0; shard = tidemark_state_next(state, shard)) {
        lua_pushinteger(L, tidemark_state_applied_seqno(state, (uint32_t)shard));
        lua_rawseti(L, -2, shard);
    }
    return 1;
}

static int state_shards(lua_State *L) {
    int position = 0;
    lua_createtable(L, (int)tidemark_state_count(tidemark_replication_state_check(L, 1)), 0);
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    for (int shard = tidemark_state_next(state, -1); shard >= 0; shard = tidemark_state_next(state, shard)) {
        lua_pushinteger(L, shard);
        lua_rawseti(L, -2, ++position);
    }
    return 1;
}

static int state_to_checkpoint_bytes(lua_State *L) {
    for (;;) { /* again where another process added shards meanwhile */
        size_t size = TIDEMARK_CHECKPOINT_SIZE(tidemark_state_count(tidemark_replication_state_check(L, 1)));
        luaL_Buffer buffer;
        char *bytes = luaL_buffinitsize(L, &buffer, size);
        int64_t length = tidemark_state_to_checkpoint_bytes(tidemark_replication_state_check(L, 1), bytes, size);
        if (length >= 0) {
            luaL_pushresultsize(&buffer, (size_t)length);
            return 1;
        }
        lua_settop(L, 1);
    }
}

static int state_checkpoint(lua_State *L) {
    tidemark_error error;
    tidemark_note *notes = NULL;
    size_t count = 0;
    (void)tidemark_replication_state_check(L, 1);
    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        size_t room = tidemark_count_entries(L, 2);
        notes = lua_newuserdata(L, room * sizeof *notes + 1);
        for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1), count++) {
            size_t length = 0;
            luaL_argcheck(L, count < room, 2, TIDEMARK_TABLE_GREW);
            notes[count].shard = (uint32_t)tidemark_check_element(L, 2, -2, TIDEMARK_SHARD_MAX, "shard id");
            if (lua_type(L, -1) != LUA_TSTRING)
                luaL_argerror(L, 2, lua_pushfstring(L, "a note must be a string, not a %s", luaL_typename(L, -1)));
            notes[count].bytes = lua_tolstring(L, -1, &length); /* the table keeps it alive */
            if (length > TIDEMARK_NOTE_MAX) luaL_argerror(L, 2, "a note is longer than 128 bytes");
            notes[count].length = (uint32_t)length;
        }
    }
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    if (tidemark_state_checkpoint(state, notes, count, &error) < 0) return tidemark_push_failure(L, &error);
    lua_pushboolean(L, 1);
    return 1;
}

static int state_note(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    tidemark_error error;
    char note[TIDEMARK_NOTE_MAX];
    int length = tidemark_state_note(state, tidemark_check_shard(L, 2), note, &error);
    if (length >= 0) lua_pushlstring(L, note, (size_t)length);
    else if (length == TIDEMARK_ENOT_FOUND) lua_pushnil(L);
    else return tidemark_push_failure(L, &error);
    return 1;
}

/* The note that is argument `index`, or NULL if that is nil. */
static const tidemark_note *opt_note(lua_State *L, int index, uint32_t shard, tidemark_note *note) {
    size_t length;
    if (lua_isnoneornil(L, index)) return NULL;
    note->shard = shard;
    note->bytes = luaL_checklstring(L, index, &length);
    luaL_argcheck(L, length <= TIDEMARK_NOTE_MAX, index, "a note is longer than 128 bytes");
    note->length = (uint32_t)length;
    return note;
}

/* __reset(state, shard, seqno, kept note, new note): what lua/tidemark/replication_state.lua makes `reset` of. */
static int state_reset(lua_State *L) {
    tidemark_error error;
    tidemark_note notes[2];
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t seqno = tidemark_check_seqno(L, 3);
    const tidemark_note *kept = opt_note(L, 4, shard, &notes[0]), *note = opt_note(L, 5, shard, &notes[1]);
    if (tidemark_state_reset_from(state, shard, seqno, kept, note, &error) < 0) return tidemark_push_failure(L, &error);
    lua_pushboolean(L, 1);
    return 1;
}

static int state_lock_shard(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    tidemark_error error;
    if (tidemark_state_lock_shard(state, tidemark_check_shard(L, 2), &error) < 0)
        return tidemark_push_failure(L, &error);
    lua_pushboolean(L, 1);
    return 1;
}

static int state_unlock_shard(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    tidemark_state_unlock_shard(state, tidemark_check_shard(L, 2));
    return 0;
}

static int state_is_current(lua_State *L) {
    tidemark_error error;
    int current = tidemark_state_is_current(tidemark_replication_state_check(L, 1), &error);
    if (current < 0) return tidemark_push_failure(L, &error);
    lua_pushboolean(L, current);
    return 1;
}

static int state_close(lua_State *L) {
    struct handle *handle = check_handle(L, 1);
    tidemark_state *state = handle->state;
    handle->state = NULL;
    tidemark_state_release(state);
    return 0;
}

/* A handle cannot be closed while its state is waited on: nothing else of this lua_State runs meanwhile. */
static int state_wait_for(lua_State *L) {
    tidemark_error error;
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    int64_t seqno = tidemark_check_seqno(L, 3);
    if (tidemark_state_wait_for(state, shard, seqno, tidemark_check_timeout(L, 4), &error) < 0)
        return tidemark_push_failure(L, &error);
    lua_pushboolean(L, 1);
    return 1;
}

static int state_wait_any(lua_State *L) {
    tidemark_error error;
    size_t count;
    uint32_t shard;
    (void)tidemark_replication_state_check(L, 1);
    lua_Number timeout = tidemark_check_timeout(L, 3);
    const tidemark_mark *marks = tidemark_check_marks(L, 2, 2, &count);
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    if (tidemark_state_wait_any(state, marks, count, timeout, &shard, &error) < 0)
        return tidemark_push_failure(L, &error);
    lua_pushinteger(L, shard);
    return 1;
}

static int state_interrupt(lua_State *L) {
    tidemark_state_interrupt(tidemark_replication_state_check(L, 1));
    return 0;
}

/* ---- bound closures: one upvalue, a userdata with a reference of its own and the slot ---- */

#define BINDING_METATABLE "tidemark.ReplicationState.binding"

struct binding {
    tidemark_state *state;
    struct tidemark_slot *slot; /* NULL: finalized. Another finalizer may still call the closures. */
};

static int binding_gc(lua_State *L) {
    struct binding *binding = luaL_checkudata(L, 1, BINDING_METATABLE);
    tidemark_state *state = binding->state;
    binding->state = NULL;
    binding->slot = NULL;
    tidemark_state_release(state);
    return 0;
}

static const struct binding *check_binding(lua_State *L) {
    const struct binding *binding = lua_touserdata(L, lua_upvalueindex(1));
    if (binding->slot == NULL) luaL_error(L, "closed ReplicationState");
    return binding;
}

static int bound_advance(lua_State *L) {
    int64_t seqno = tidemark_check_seqno(L, 1);
    const struct binding *binding = check_binding(L);
    lua_pushboolean(L, tidemark_state_advance_slot(binding->state, binding->slot, seqno));
    return 1;
}

static int bound_advance_readonly(lua_State *L) {
    tidemark_check_seqno(L, 1);
    return push_no_advance(L, TIDEMARK_EREADONLY, 0);
}

static int bound_applied(lua_State *L) {
    lua_pushinteger(L, tidemark_slot_read(check_binding(L)->slot));
    return 1;
}

static int state_bind(lua_State *L) {
    (void)tidemark_replication_state_check(L, 1);
    uint32_t shard = tidemark_check_shard(L, 2);
    struct binding *binding = lua_newuserdata(L, sizeof *binding);
    binding->state = NULL;
    binding->slot = NULL;
    luaL_setmetatable(L, BINDING_METATABLE);
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    struct tidemark_slot *slot = tidemark_state_slot(state, shard);
    if (slot == NULL) return push_no_advance(L, TIDEMARK_EUNKNOWN_SHARD, shard);
    binding->state = tidemark_state_retain(state);
    binding->slot = slot;
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, state->readonly ? bound_advance_readonly : bound_advance, 1);
    lua_insert(L, -2);
    lua_pushcclosure(L, bound_applied, 1);
    return 2;
}

/* ---- metamethods ---- */

static int state_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)tidemark_state_count(tidemark_replication_state_check(L, 1)));
    return 1;
}

static int state_eq(lua_State *L) {
    struct handle *left = to_handle(L, 1), *right = to_handle(L, 2);
    lua_pushboolean(L, left != NULL && right != NULL && left->state != NULL && left->state == right->state);
    return 1;
}

static int state_tostring(lua_State *L) {
    struct handle *handle = check_handle(L, 1);
    if (handle->state == NULL) {
        lua_pushliteral(L, "ReplicationState(closed)");
    } else {
        int count = (int)tidemark_state_count(handle->state);
        lua_pushfstring(L, "ReplicationState(%d shard%s)", count, count == 1 ? "" : "s");
    }
    return 1;
}

/* The iterator of pairs: (state, shard or nil) -> next shard, its mark. */
static int state_next(lua_State *L) {
    tidemark_state *state = tidemark_replication_state_check(L, 1);
    int shard = tidemark_state_next(state, lua_isnoneornil(L, 2) ? -1 : (int)tidemark_check_shard(L, 2));
    if (shard < 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, shard);
    lua_pushinteger(L, tidemark_state_applied_seqno(state, (uint32_t)shard));
    return 2;
}

static int state_pairs(lua_State *L) {
    (void)tidemark_replication_state_check(L, 1);
    lua_pushcfunction(L, state_next);
    lua_pushvalue(L, 1);
    return 2;
}

/* ---- registration ---- */

void tidemark_replication_state_class(lua_State *L) {
    static const luaL_Reg class_functions[] = {
        {"new", state_new},
        {"single", state_single},
        {"from_checkpoint_bytes", state_from_checkpoint_bytes},
        {"open", state_open},
        {"inspect", state_inspect},
        {"applied_seqno", state_applied_seqno},
        {"advance", state_advance},
        {"advance_all", state_advance_all},
        {"clone", state_clone},
        {"snapshot", state_snapshot},
        {"shards", state_shards},
        {"to_checkpoint_bytes", state_to_checkpoint_bytes},
        {"checkpoint", state_checkpoint},
        {"note", state_note},
        {"__reset", state_reset}, /* not for users */
        {"bind", state_bind},
        {"wait_for", state_wait_for},
        {"wait_any", state_wait_any},
        {"watch", tidemark_watch_method},
        {"interrupt", state_interrupt},
        {"is_current", state_is_current},
        {"lock_shard", state_lock_shard},
        {"unlock_shard", state_unlock_shard},
        {"close", state_close},
        {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__gc", state_close},          {"__close", state_close}, {"__len", state_len}, {"__eq", state_eq},
        {"__tostring", state_tostring}, {"__pairs", state_pairs}, {NULL, NULL},
    };
    static const luaL_Reg binding_metamethods[] = {{"__gc", binding_gc}, {NULL, NULL}};

    luaL_newmetatable(L, BINDING_METATABLE);
    luaL_setfuncs(L, binding_metamethods, 0);
    lua_pop(L, 1);

    luaL_newlib(L, class_functions);
    luaL_newmetatable(L, METATABLE);
    luaL_setfuncs(L, metamethods, 0);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
