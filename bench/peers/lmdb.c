/*
 * LMDB as a contender: one value, as long as a checkpoint's text, put under one key and committed durably, which is its
 * default. The size of the case is the value's, in bytes; the answer is microseconds per save.
 */
#define _DEFAULT_SOURCE 1
#include <lmdb.h>

#include "../workers/disk.h"

#define MAP_SIZE 268435456 /* bytes */

static MDB_env *environment;
static MDB_dbi database;
static char *value;
static size_t value_size;

static void must(int result) {
    if (result != 0) bench_fail(mdb_strerror(result));
}

static MDB_txn *begin(unsigned flags) {
    MDB_txn *transaction;
    must(mdb_txn_begin(environment, NULL, flags, &transaction));
    return transaction;
}

static void open_database(size_t size) {
    unsigned flags;
    value = calloc(1, size);
    value_size = size;
    if (value == NULL) bench_fail("no memory");
    must(mdb_env_create(&environment));
    must(mdb_env_set_mapsize(environment, MAP_SIZE));
    must(mdb_env_open(environment, disk_path("lmdb"), MDB_NOSUBDIR, 0600));
    must(mdb_env_get_flags(environment, &flags));
    if ((flags & (MDB_NOSYNC | MDB_NOMETASYNC | MDB_MAPASYNC)) != 0) bench_fail("commits are not durable");
    MDB_txn *transaction = begin(0);
    must(mdb_dbi_open(transaction, NULL, 0, &database));
    must(mdb_txn_commit(transaction));
}

static void save_once(void) {
    MDB_val key = {5, (void *)(uintptr_t) "marks"}, data = {value_size, value};
    value[0]++;
    MDB_txn *transaction = begin(0);
    must(mdb_put(transaction, database, &key, &data, 0));
    must(mdb_txn_commit(transaction));
}

static double save(unsigned size) {
    MDB_val key = {5, (void *)(uintptr_t) "marks"}, found;
    if (environment == NULL) open_database(size);
    double us = disk_time(save_once);
    MDB_txn *transaction = begin(MDB_RDONLY);
    must(mdb_get(transaction, database, &key, &found));
    if (found.mv_size != value_size || memcmp(found.mv_data, value, value_size) != 0)
        bench_fail("the database does not have the last value");
    mdb_txn_abort(transaction);
    return us;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {{"save", NULL, NULL, save}, {NULL, NULL, NULL, NULL}};
    return bench_serve(count, arguments, cases);
}
