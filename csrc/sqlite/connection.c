/* Opening SQLite files and wording errors: see connection.h. */
#include "connection.h"

#include <errno.h>
#include <string.h>

#define RETRY_MS    10       /* between two attempts at the settings of a new connection */
#define PATH_FORMAT "%.512s" /* SQLite takes no longer ones */

/* Words for SQLite's primary result codes; the rest is "ERROR". */
static const char *const words[] = {
    [SQLITE_ERROR] = "ERROR",       [SQLITE_PERM] = "DENIED",       [SQLITE_ABORT] = "ABORT",
    [SQLITE_BUSY] = "BUSY",         [SQLITE_LOCKED] = "LOCKED",     [SQLITE_READONLY] = "READONLY",
    [SQLITE_IOERR] = "IO",          [SQLITE_CORRUPT] = "CORRUPT",   [SQLITE_FULL] = "FULL",
    [SQLITE_CANTOPEN] = "CANTOPEN", [SQLITE_PROTOCOL] = "PROTOCOL", [SQLITE_SCHEMA] = "SCHEMA",
    [SQLITE_TOOBIG] = "TOOBIG",     [SQLITE_MISMATCH] = "MISMATCH", [SQLITE_CONSTRAINT] = "CONSTRAINT",
    [SQLITE_NOTADB] = "NOTADB",
};

struct tidemark_sqlite_failure tidemark_sqlite_describe(sqlite3 *handle, const char *path, int result) {
    struct tidemark_sqlite_failure failure = {"ERROR", ""};
    unsigned primary = (unsigned)result & 0xff;
    const char *message = sqlite3_errmsg(handle);
    int size = sizeof failure.message, number;
    if (primary < sizeof words / sizeof *words && words[primary] != NULL) failure.code = words[primary];
    if (primary == SQLITE_NOMEM) failure.code = NULL;
    if (primary == SQLITE_CANTOPEN && (number = sqlite3_system_errno(handle)) != 0) {
        if (number == ENOENT) failure.code = "NOT_FOUND";
        sqlite3_snprintf(size, failure.message, PATH_FORMAT ": %s: %s", path, message, strerror(number));
    } else if (primary == SQLITE_IOERR) { /* SQLite keeps no errno of a commit; this number names the system call */
        number = sqlite3_extended_errcode(handle);
        sqlite3_snprintf(size, failure.message, PATH_FORMAT ": %s (SQLite's code %d)", path, message, number);
    } else {
        sqlite3_snprintf(size, failure.message, PATH_FORMAT ": %s", path, message);
    }
    return failure;
}

/* What a connection is told before its use, and the answer without which it is not used. The first is a question and
 * also reads the file's header and schema: strings are UTF-8 or any bytes, which UTF-16 could not keep. */
static const struct setting {
    const char *pragma, *wanted;
} settings[] = {
    {"PRAGMA encoding", "UTF-8"},
    {"PRAGMA journal_mode = WAL", "wal"},
    {"PRAGMA synchronous = FULL", ""},
    {"PRAGMA synchronous", "2"},
};

/* Runs the pragma and copies its answer. */
static int run_pragma(sqlite3 *handle, const char *pragma, char *answer, int size) {
    sqlite3_stmt *stmt;
    int result = sqlite3_prepare_v2(handle, pragma, -1, &stmt, NULL);
    if (result != SQLITE_OK) return result;
    const char *text = sqlite3_step(stmt) == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    sqlite3_snprintf(size, answer, "%s", text != NULL ? text : "");
    return sqlite3_finalize(stmt);
}

/* Whether the connection can be used; else *failure tells. SQLite's busy handler does not help when two connections
 * turn the same new file to WAL, since both hold a read lock; so this waits by itself, before there is a busy handler.
 */
static bool apply_settings(sqlite3 *handle, const char *path, const struct tidemark_sqlite_options *options,
                           struct tidemark_sqlite_failure *failure) {
    size_t count = options->readonly ? 1 : sizeof settings / sizeof *settings;
    int patience = options->timeout_ms;
    for (const struct setting *setting = settings; setting < settings + count; setting++) {
        char answer[32];
        int result;
        while ((result = run_pragma(handle, setting->pragma, answer, sizeof answer)) != SQLITE_OK) {
            if ((result & 0xff) != SQLITE_BUSY || patience <= 0) {
                *failure = tidemark_sqlite_describe(handle, path, result);
                return false;
            }
            patience -= sqlite3_sleep(RETRY_MS);
        }
        if (strcmp(answer, setting->wanted) != 0) {
            failure->code = "UNSUPPORTED";
            sqlite3_snprintf(sizeof failure->message, failure->message, PATH_FORMAT ": %s: '%s', must be '%s'", path,
                             setting->pragma, answer, setting->wanted);
            return false;
        }
    }
    sqlite3_busy_timeout(handle, options->timeout_ms);
    return true;
}

bool tidemark_sqlite_open(const char *file, const char *path, const struct tidemark_sqlite_options *options,
                          sqlite3 **handle, struct tidemark_sqlite_failure *failure) {
    int flags = options->readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    if (!options->readonly && !options->existing) flags |= SQLITE_OPEN_CREATE;
    int result = sqlite3_open_v2(file, handle, flags | SQLITE_OPEN_NOMUTEX, NULL);
    if (result != SQLITE_OK) {
        *failure = tidemark_sqlite_describe(*handle, path, result);
        return false;
    }
    if (!options->readonly && sqlite3_db_readonly(*handle, "main") != 0) { /* a file that may only be read */
        failure->code = words[SQLITE_READONLY];
        sqlite3_snprintf(sizeof failure->message, failure->message, PATH_FORMAT ": %s", path,
                         sqlite3_errstr(SQLITE_READONLY));
        return false;
    }
    return apply_settings(*handle, path, options, failure);
}
