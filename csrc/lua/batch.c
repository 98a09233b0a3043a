/*
 * The Lua class Batch: consecutive records of one shard, as the log stores and ships them.
 *
 * A batch is one userdata that holds the encoded bytes, checked when it was made; it never changes. Records become Lua
 * strings only when they are asked for.
 */
#include "batch.h"

#include <stddef.h>
#include <string.h>

#include "../core/batch.h"
#include "arguments.h"

#define METATABLE "tidemark.Batch"

struct batch {
    uint64_t magic;        /* BATCH_MAGIC */
    tidemark_batch header; /* size 0: not finished */
    unsigned char bytes[]; /* header.size of them */
};

/* Random, so that no other library's userdata carries it; its low bits are the ABI. */
#define BATCH_MAGIC (UINT64_C(0xc3b1f04e7d296a00) + TIDEMARK_ABI)

/* ---- handles ---- */

unsigned char *tidemark_batch_push(lua_State *L, size_t size) {
    struct batch *batch = lua_newuserdata(L, sizeof *batch + size);
    batch->magic = BATCH_MAGIC;
    batch->header.size = 0;
    luaL_setmetatable(L, METATABLE);
    return batch->bytes;
}

void tidemark_batch_finish(lua_State *L, int index, const tidemark_batch *header) {
    struct batch *batch = lua_touserdata(L, index);
    batch->header = *header;
}

static const struct batch *check_batch(lua_State *L, int index) {
    const struct batch *batch = lua_touserdata(L, index);
    if (batch == NULL || lua_rawlen(L, index) < sizeof *batch || batch->magic != BATCH_MAGIC || batch->header.size == 0)
        luaL_argerror(L, index, lua_pushfstring(L, "Batch expected, got %s", luaL_typename(L, index)));
    return batch;
}

static void push_record(lua_State *L, const struct batch *batch, uint32_t position) {
    tidemark_record record = tidemark_batch_record(batch->bytes, &batch->header, position);
    lua_pushlstring(L, record.bytes, record.length);
}

/* ---- making ---- */

/* The field `name` of the table at `index`, or `missing`; a negative `missing` means that it must be there. */
static lua_Integer check_field(lua_State *L, int argument, int index, const char *name, lua_Integer most,
                               lua_Integer missing) {
    lua_getfield(L, index, name);
    if (!lua_isnil(L, -1) || missing < 0) missing = tidemark_check_element(L, argument, -1, most, name);
    lua_pop(L, 1);
    return missing;
}

tidemark_origin tidemark_check_origin(lua_State *L, int argument, int index) {
    if (!lua_istable(L, index))
        luaL_argerror(L, argument, lua_pushfstring(L, "origin must be a table, not a %s", luaL_typename(L, index)));
    tidemark_origin origin = {
        .log_id = (uint32_t)check_field(L, argument, index, "log_id", UINT32_MAX, -1),
        .epoch = (uint64_t)check_field(L, argument, index, "epoch", TIDEMARK_EPOCH_MAX, -1),
        .first_seqno = check_field(L, argument, index, "first_seqno", TIDEMARK_SEQNO_MAX, -1),
    };
    return origin;
}

/* Pushes a copy of the table at `index`; what is no table is pushed as it is. */
static void copy_array(lua_State *L, int index) {
    if (!lua_istable(L, index)) {
        lua_pushvalue(L, index);
        return;
    }
    lua_createtable(L, (int)lua_rawlen(L, index), 0);
    int copy = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, index);) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, copy);
    }
}

static int batch_encode(lua_State *L) {
    tidemark_error error;
    size_t count;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    tidemark_batch header = {
        .shard = (uint32_t)check_field(L, 1, 1, "shard", TIDEMARK_SHARD_MAX, -1),
        .epoch = (uint64_t)check_field(L, 1, 1, "epoch", TIDEMARK_EPOCH_MAX, -1),
        .prev_epoch = (uint64_t)check_field(L, 1, 1, "prev_epoch", TIDEMARK_EPOCH_MAX, -1),
        .first_seqno = check_field(L, 1, 1, "first_seqno", TIDEMARK_SEQNO_MAX, -1),
        .written_ms = (uint64_t)check_field(L, 1, 1, "written_ms", INT64_MAX, 0),
        .log_id = (uint32_t)check_field(L, 1, 1, "log_id", UINT32_MAX, -1),
    };
    /* without one: the lowest that can be said */
    int64_t lowest = header.first_seqno - 1 > UINT32_MAX ? header.first_seqno - 1 - UINT32_MAX : 0;
    header.durable_seqno = check_field(L, 1, 1, "durable_seqno", TIDEMARK_SEQNO_MAX, lowest);
    if (lua_getfield(L, 1, "origin") != LUA_TNIL) {
        header.has_origin = 1;
        header.origin = tidemark_check_origin(L, 1, 2);
    }
    lua_settop(L, 1);
    lua_getfield(L, 1, "records");
    copy_array(L, lua_gettop(L)); /* finalizers that run while memory is allocated cannot change this one */
    const tidemark_record *records = tidemark_check_records(L, 1, lua_gettop(L), &count);
    int64_t size = tidemark_batch_size(records, count, header.has_origin);
    luaL_argcheck(L, size >= 0, 1, "a batch longer than 64 MiB");
    header.count = (uint32_t)count;
    unsigned char *bytes = tidemark_batch_push(L, (size_t)size);
    if (tidemark_batch_encode(&header, records, bytes, &error) < 0) return luaL_argerror(L, 1, error.message);
    tidemark_batch_finish(L, -1, &header);
    return 1;
}

static int batch_decode(lua_State *L) {
    tidemark_error error;
    tidemark_batch header;
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *bytes = lua_tolstring(L, 1, &size);
    if (tidemark_batch_decode(bytes, size, &header, &error) < 0) return tidemark_push_failure(L, &error);
    memcpy(tidemark_batch_push(L, size), bytes, size);
    tidemark_batch_finish(L, -1, &header);
    return 1;
}

/* ---- methods ---- */

static int batch_record(lua_State *L) {
    const struct batch *batch = check_batch(L, 1);
    lua_Integer position = luaL_checkinteger(L, 2);
    if (position < 1 || position > (lua_Integer)batch->header.count) lua_pushnil(L);
    else push_record(L, batch, (uint32_t)(position - 1));
    return 1;
}

/* The iterator of records, of the batch that is its upvalue: (any, seqno before) -> seqno, record. */
static int batch_next(lua_State *L) {
    const struct batch *batch = lua_touserdata(L, lua_upvalueindex(1));
    lua_Integer before = luaL_checkinteger(L, 2), first = batch->header.first_seqno;
    if (before < first - 1 || before >= tidemark_batch_last_seqno(&batch->header)) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, before + 1);
    push_record(L, batch, (uint32_t)(before + 1 - first));
    return 2;
}

static int batch_records(lua_State *L) {
    const struct batch *batch = check_batch(L, 1);
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, batch_next, 1);
    lua_pushnil(L);
    lua_pushinteger(L, batch->header.first_seqno - 1);
    return 3;
}

/* each(batch, f): calls f(record, seqno) for each record. The loop in C costs less than an iterator's call per record.
 */
static int batch_each(lua_State *L) {
    const struct batch *batch = check_batch(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    for (uint32_t position = 0; position < batch->header.count; position++) {
        lua_pushvalue(L, 2);
        push_record(L, batch, position);
        lua_pushinteger(L, batch->header.first_seqno + (lua_Integer)position);
        lua_call(L, 2, 0);
    }
    return 0;
}

static int batch_bytes(lua_State *L) {
    const struct batch *batch = check_batch(L, 1);
    lua_pushlstring(L, (const char *)batch->bytes, batch->header.size);
    return 1;
}

/* A batch of the records above a seqno: as if the leader had cut it there. */
static int batch_after(lua_State *L) {
    tidemark_error error;
    const struct batch *batch = check_batch(L, 1);
    int64_t seqno = tidemark_check_seqno(L, 2), first = batch->header.first_seqno;
    if (seqno < first) {
        lua_settop(L, 1);
        return 1;
    }
    if (seqno >= tidemark_batch_last_seqno(&batch->header)) {
        lua_pushnil(L);
        return 1;
    }
    uint32_t skip = (uint32_t)(seqno - first + 1);
    tidemark_batch header = batch->header;
    header.first_seqno = seqno + 1;
    header.count -= skip;
    header.prev_epoch = header.epoch;
    if (header.has_origin) header.origin.first_seqno += skip;
    if (header.first_seqno - 1 - header.durable_seqno > UINT32_MAX)
        header.durable_seqno = header.first_seqno - 1 - UINT32_MAX; /* what the header can say */
    tidemark_record *records = lua_newuserdata(L, header.count * sizeof *records);
    for (uint32_t i = 0; i < header.count; i++)
        records[i] = tidemark_batch_record(batch->bytes, &batch->header, skip + i);
    unsigned char *bytes =
        tidemark_batch_push(L, (size_t)tidemark_batch_size(records, header.count, header.has_origin));
    if (tidemark_batch_encode(&header, records, bytes, &error) < 0) return luaL_error(L, "%s", error.message);
    tidemark_batch_finish(L, -1, &header);
    return 1;
}

/* ---- metamethods ---- */

static void push_origin(lua_State *L, const tidemark_origin *origin) {
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, origin->log_id);
    lua_setfield(L, -2, "log_id");
    lua_pushinteger(L, (lua_Integer)origin->epoch);
    lua_setfield(L, -2, "epoch");
    lua_pushinteger(L, origin->first_seqno);
    lua_setfield(L, -2, "first_seqno");
}

/* A method, or a field of the header. Upvalue 1: the methods. */
static int batch_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    const struct batch *batch = check_batch(L, 1);
    const tidemark_batch *header = &batch->header;
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(name, "shard") == 0) lua_pushinteger(L, header->shard);
    else if (strcmp(name, "first_seqno") == 0) lua_pushinteger(L, header->first_seqno);
    else if (strcmp(name, "last_seqno") == 0) lua_pushinteger(L, tidemark_batch_last_seqno(header));
    else if (strcmp(name, "epoch") == 0) lua_pushinteger(L, (lua_Integer)header->epoch);
    else if (strcmp(name, "prev_epoch") == 0) lua_pushinteger(L, (lua_Integer)header->prev_epoch);
    else if (strcmp(name, "durable_seqno") == 0) lua_pushinteger(L, header->durable_seqno);
    else if (strcmp(name, "written_ms") == 0) lua_pushinteger(L, (lua_Integer)header->written_ms);
    else if (strcmp(name, "log_id") == 0) lua_pushinteger(L, header->log_id);
    else if (strcmp(name, "origin") == 0 && header->has_origin) push_origin(L, &header->origin);
    else lua_pushnil(L);
    return 1;
}

static int batch_len(lua_State *L) {
    lua_pushinteger(L, check_batch(L, 1)->header.count);
    return 1;
}

static int batch_tostring(lua_State *L) {
    const tidemark_batch *header = &check_batch(L, 1)->header;
    lua_pushfstring(L, "Batch(shard %d, records %I..%I)", (int)header->shard, (LUAI_UACINT)header->first_seqno,
                    (LUAI_UACINT)tidemark_batch_last_seqno(header));
    return 1;
}

/* ---- registration ---- */

void tidemark_batch_class(lua_State *L) {
    static const luaL_Reg class_functions[] = {
        {"encode", batch_encode}, {"decode", batch_decode}, {"record", batch_record}, {"records", batch_records},
        {"each", batch_each},     {"bytes", batch_bytes},   {"after", batch_after},   {NULL, NULL},
    };
    static const luaL_Reg metamethods[] = {
        {"__len", batch_len},
        {"__tostring", batch_tostring},
        {NULL, NULL},
    };
    luaL_newlib(L, class_functions);
    luaL_newmetatable(L, METATABLE);
    luaL_setfuncs(L, metamethods, 0);
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, batch_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
