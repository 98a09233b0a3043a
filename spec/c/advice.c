/* Advice in messages that only C programs can get, followed: spec/advice_spec.lua has the table of all messages. */
#define _XOPEN_SOURCE 700 /* mkdtemp */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "tidemark.h"

static tidemark_error failure;

static void read_before_wait(void) {
    char directory[] = "/tmp/tidemark-advice.XXXXXX", path[64], command[96], bytes[128];
    const uint32_t shard = 0;
    const tidemark_wal_options options = {.shards = &shard, .shard_count = 1};
    const tidemark_record record = {.bytes = "a", .length = 1};
    tidemark_wal *wal;
    tidemark_wal_reader *reader;
    tidemark_batch header;
    CHECK(mkdtemp(directory) != NULL);
    (void)snprintf(path, sizeof path, "%s/log", directory);
    CHECK_INT(tidemark_wal_open(path, &options, &wal, &failure), 0);
    CHECK_INT(tidemark_wal_append(wal, 0, &record, 1, NULL, NULL, &failure), 0);
    CHECK_INT(tidemark_wal_close(wal, &failure), 0);
    CHECK_INT(tidemark_wal_reader_open(path, 0, 0, 0, &reader, &failure), 0);
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &header, &failure), TIDEMARK_EINVAL);
    CHECK(strstr(failure.message, "there is no batch to read: wait for one first") != NULL);
    CHECK_INT(tidemark_wal_reader_wait(reader, 0, &header, &failure), 0);
    CHECK(header.size <= sizeof bytes);
    CHECK_INT(tidemark_wal_reader_read(reader, bytes, &header, &failure), 0);
    CHECK_INT(header.first_seqno, 1);
    CHECK_INT(header.count, 1);
    tidemark_wal_reader_close(reader);
    (void)snprintf(command, sizeof command, "rm -r '%s'", directory);
    CHECK_INT(system(command), 0);
}

int main(void) {
    RUN(read_before_wait);
    return FINISH();
}
