/*
 * A connection to an SQLite file, opened with fixed settings, and its errors in words. Knows no Lua: whatever makes Lua
 * objects may run finalizers, and these may use or close the same connection.
 */
#ifndef TIDEMARK_SQLITE_CONNECTION_H
#define TIDEMARK_SQLITE_CONNECTION_H

#include <sqlite3.h>
#include <stdbool.h>

#define TIDEMARK_SQLITE_TIMEOUT_MS 5000 /* busy_timeout, where it is not given */

struct tidemark_sqlite_options {
    bool readonly; /* never makes the file */
    bool existing; /* the file must be there */
    int timeout_ms;
};

struct tidemark_sqlite_failure {
    const char *code;   /* an upper-case word; NULL: no memory */
    char message[1024]; /* begins with the path */
};

#pragma GCC visibility push(hidden)

/* What the last call on the connection, which answered `result`, says. */
struct tidemark_sqlite_failure tidemark_sqlite_describe(sqlite3 *handle, const char *path, int result);

/* Opens `file` into *handle; where it fails *handle may be set, too, and must be closed. `path` names it in messages. A
 * connection that may write has WAL and synchronous = FULL, for certain. May wait for timeout_ms. */
bool tidemark_sqlite_open(const char *file, const char *path, const struct tidemark_sqlite_options *options,
                          sqlite3 **handle, struct tidemark_sqlite_failure *failure);

#pragma GCC visibility pop

#endif
