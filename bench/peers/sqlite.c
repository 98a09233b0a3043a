/*
 * SQLite, from C, as a contender; always with synchronous=FULL. `save`, in WAL mode, and `save_journal`, in the journal
 * mode that SQLite has when it is not told otherwise (DELETE): one value, as long as a
 * checkpoint's text, in one row; the size is the value's, in bytes; microseconds per save. `inserts`, in WAL mode: what
 * a follower does to a database, without a log: records of 128 bytes that lie in memory, each inserted into a table, in
 * transactions that also move the row of progress. The size is the records of a transaction; microseconds per record.
 */
#define _DEFAULT_SOURCE 1
#include <sqlite3.h>

#include "../workers/disk.h"

#define RECORD        128   /* bytes */
#define TRANSACTIONS  400   /* of one answer at the most, */
#define RECORDS_ABOUT 20000 /* and about so many records */

static sqlite3 *database;

static void must(int result) {
    if (result != SQLITE_OK && result != SQLITE_DONE && result != SQLITE_ROW) bench_fail(sqlite3_errmsg(database));
}

static void execute(const char *sql) {
    must(sqlite3_exec(database, sql, NULL, NULL, NULL));
}

static sqlite3_stmt *prepare(const char *sql) {
    sqlite3_stmt *statement;
    must(sqlite3_prepare_v2(database, sql, -1, &statement, NULL));
    return statement;
}

/* Steps and resets; for what gives no row. */
static void run(sqlite3_stmt *statement) {
    must(sqlite3_step(statement));
    must(sqlite3_reset(statement));
}

/* The first column of the first row, as an integer. */
static int64_t ask(const char *sql) {
    sqlite3_stmt *statement = prepare(sql);
    must(sqlite3_step(statement));
    int64_t answer = sqlite3_column_int64(statement, 0);
    must(sqlite3_finalize(statement));
    return answer;
}

static void open_database(const char *name, bool wal) {
    must(sqlite3_open(disk_path(name), &database));
    execute(wal ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL" : "PRAGMA synchronous=FULL");
    if (ask("SELECT journal_mode = 'wal' FROM pragma_journal_mode") != wal || ask("PRAGMA synchronous") != 2)
        bench_fail("commits are not durable");
}

/* ---- save ---- */

#define AUTOCHECKPOINT 1000 /* pages: then SQLite begins the WAL anew, and from then on only overwrites it */

static sqlite3_stmt *replace;
static char *value;
static int value_size;

static void save_once(void) {
    value[0]++;
    must(sqlite3_bind_blob(replace, 1, value, value_size, SQLITE_STATIC));
    run(replace);
}

static double save(unsigned size, bool wal) {
    if (database == NULL) {
        open_database("sqlite", wal);
        execute("CREATE TABLE marks (id INTEGER PRIMARY KEY, bytes BLOB)");
        replace = prepare("REPLACE INTO marks VALUES (1, ?)");
        value = calloc(1, size);
        value_size = (int)size;
        if (value == NULL) bench_fail("no memory");
        for (int i = 0; wal && i < AUTOCHECKPOINT + 10; i++) save_once();
    }
    double us = disk_time(save_once);
    sqlite3_stmt *read = prepare("SELECT bytes FROM marks");
    if (sqlite3_step(read) != SQLITE_ROW || sqlite3_column_bytes(read, 0) != value_size ||
        memcmp(sqlite3_column_blob(read, 0), value, size) != 0)
        bench_fail("the database does not have the last value");
    must(sqlite3_finalize(read));
    return us;
}

static double save_wal(unsigned size) {
    return save(size, true);
}

static double save_journal(unsigned size) {
    return save(size, false);
}

/* ---- inserts ---- */

/* All transactions; the statements are prepared once. */
static void insert_all(unsigned transactions, unsigned batch) {
    static char record[RECORD];
    sqlite3_stmt *begin = prepare("BEGIN IMMEDIATE"), *commit = prepare("COMMIT"),
                 *insert = prepare("INSERT INTO records VALUES (?, ?)"),
                 *progress = prepare("REPLACE INTO progress VALUES (0, ?, 1, 1)");
    int64_t seqno = 0;
    memset(record, 'r', sizeof record);
    for (unsigned i = 0; i < transactions; i++) {
        run(begin);
        must(sqlite3_bind_int64(progress, 1, seqno + batch));
        run(progress);
        for (unsigned at = 0; at < batch; at++) {
            seqno++;
            must(sqlite3_bind_int64(insert, 1, seqno));
            must(sqlite3_bind_text(insert, 2, record, RECORD, SQLITE_STATIC));
            run(insert);
        }
        run(commit);
    }
    must(sqlite3_finalize(begin));
    must(sqlite3_finalize(commit));
    must(sqlite3_finalize(insert));
    must(sqlite3_finalize(progress));
}

/* Into a new database each time. */
static double inserts(unsigned batch) {
    unsigned transactions = RECORDS_ABOUT / batch < TRANSACTIONS ? RECORDS_ABOUT / batch : TRANSACTIONS;
    int64_t count = (int64_t)transactions * batch;
    open_database("inserts", true);
    execute("CREATE TABLE records (seqno INTEGER PRIMARY KEY, bytes TEXT)");
    execute(
        "CREATE TABLE progress (shard INTEGER PRIMARY KEY, applied INTEGER NOT NULL, epoch INTEGER NOT NULL, log_id "
        "INTEGER NOT NULL) STRICT");
    double start = bench_now();
    insert_all(transactions, batch);
    double us = (bench_now() - start) * 1e6 / (double)count;
    if (ask("SELECT count(*) FROM records WHERE length(bytes) = 128") != count ||
        ask("SELECT applied FROM progress") != count)
        bench_fail("the database does not have all records");
    must(sqlite3_close(database));
    (void)unlink(disk_path("inserts"));
    return us;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {{"save", NULL, NULL, save_wal},
                                              {"save_journal", NULL, NULL, save_journal},
                                              {"inserts", NULL, NULL, inserts},
                                              {NULL, NULL, NULL, NULL}};
    return bench_serve(count, arguments, cases);
}
