/* Notes: merging, finding, and what is refused as malformed. */
#include "../../csrc/core/notes.h"

#include <stdlib.h>

#include "../../csrc/core/io.h"
#include "check.h"

static unsigned char *merged;
static size_t merged_size;

static void merge(const tidemark_note *notes, size_t count) {
    unsigned char *old = merged;
    CHECK(tidemark_notes_merge(old, merged_size, notes, count, &merged, &merged_size));
    CHECK(tidemark_notes_valid(merged, merged_size));
    free(old);
}

static void drop(void) {
    free(merged);
    merged = NULL;
    merged_size = 0;
}

static tidemark_note note(uint32_t shard, const char *text) {
    return (tidemark_note){shard, (uint32_t)strlen(text), text};
}

/* The note of a shard, "(none)" where there is none. */
static const char *found(uint32_t shard) {
    static char text[TIDEMARK_NOTE_MAX + 1];
    const unsigned char *bytes;
    int length = tidemark_notes_find(merged, merged_size, shard, &bytes);
    if (length < 0) return "(none)";
    memcpy(text, bytes, (size_t)length);
    text[length] = '\0';
    return text;
}

static void test_no_notes(void) {
    merge(NULL, 0);
    CHECK(merged == NULL);
    CHECK_INT(merged_size, 0);
    CHECK_STR(found(0), "(none)");
    CHECK(tidemark_notes_valid(NULL, 0));
}

static void test_the_bytes(void) {
    static const unsigned char expected[] = {2,    0, 0, 0, 1, 0, 3, 0,   0,   0,   0,   0,  0xFF,
                                             0xFF, 2, 0, 3, 0, 0, 0, 'o', 'n', 'e', 'x', 'y'};
    tidemark_note notes[] = {note(65535, "xy"), note(1, "one")};
    merge(notes, 2);
    CHECK_INT(merged_size, sizeof expected);
    CHECK(merged_size == sizeof expected && memcmp(merged, expected, sizeof expected) == 0);
    drop();
}

static void test_merging(void) {
    tidemark_note first[] = {note(5, "five"), note(1, "one"), note(9, "nine")};
    merge(first, 3);
    tidemark_note second[] = {note(9, ""), note(0, "zero"), note(5, "FIVE and more"), note(7, "seven")};
    merge(second, 4);
    merge(NULL, 0); /* a copy */
    CHECK_STR(found(0), "zero");
    CHECK_STR(found(1), "one");
    CHECK_STR(found(5), "FIVE and more");
    CHECK_STR(found(7), "seven");
    CHECK_STR(found(9), "");
    CHECK_STR(found(2), "(none)");
    CHECK_STR(found(10), "(none)");
    CHECK_STR(found(65535), "(none)");
    drop();
}

static void test_the_last_of_one_shard_counts(void) {
    tidemark_note notes[] = {note(3, "a"), note(1, "x"), note(3, "b"), note(3, "c")};
    merge(notes, 4);
    CHECK_STR(found(3), "c");
    CHECK_STR(found(1), "x");
    merge(notes, 3);
    CHECK_STR(found(3), "b");
    CHECK_INT(merged_size, 4 + 2 * 8 + 2);
    drop();
}

static void drop_note(uint32_t shard) {
    merged_size = tidemark_notes_drop(merged, merged_size, shard);
    CHECK(tidemark_notes_valid(merged, merged_size));
}

/* The same bytes as if the note had never been there. */
static void test_dropping(void) {
    tidemark_note notes[] = {note(1, "one"), note(3, ""), note(5, "five"), note(65535, "the last one")};
    for (size_t dropped = 0; dropped < 4; dropped++) {
        tidemark_note rest[3];
        unsigned char expected[128];
        for (size_t i = 0, j = 0; i < 4; i++) {
            if (i != dropped) rest[j++] = notes[i];
        }
        merge(rest, 3);
        size_t expected_size = merged_size;
        memcpy(expected, merged, merged_size);
        drop();
        merge(notes, 4);
        drop_note(2); /* there is none */
        drop_note(notes[dropped].shard);
        CHECK_INT(merged_size, expected_size);
        CHECK(memcmp(merged, expected, expected_size) == 0);
        CHECK_STR(found(notes[dropped].shard), "(none)");
        for (size_t i = 0; i < 4; i++) drop_note(notes[i].shard);
        CHECK_INT(merged_size, 0);
        drop_note(1);
        CHECK_INT(merged_size, 0);
        drop();
    }
    CHECK_INT(tidemark_notes_drop(NULL, 0, 1), 0);
}

static void test_as_many_as_there_are(void) {
    static tidemark_note notes[TIDEMARK_SHARD_MAX + 1];
    static char text[TIDEMARK_SHARD_MAX + 1][TIDEMARK_NOTE_MAX];
    for (uint32_t i = 0; i <= TIDEMARK_SHARD_MAX; i++) {
        uint32_t shard = TIDEMARK_SHARD_MAX - i;
        memset(text[i], (int)(shard % 251), sizeof text[i]);
        notes[i] = (tidemark_note){shard, TIDEMARK_NOTE_MAX, text[i]};
    }
    merge(notes, TIDEMARK_SHARD_MAX + 1);
    merge(notes, 1000);
    CHECK_INT(merged_size, TIDEMARK_NOTES_SIZE);
    for (uint32_t shard = 0; shard <= TIDEMARK_SHARD_MAX; shard += 997) {
        const unsigned char *bytes;
        CHECK_INT(tidemark_notes_find(merged, merged_size, shard, &bytes), TIDEMARK_NOTE_MAX);
        CHECK_INT(bytes[TIDEMARK_NOTE_MAX - 1], shard % 251);
    }
    drop();
}

static void test_malformed(void) {
    tidemark_note notes[] = {note(1, "one"), note(2, "two")};
    unsigned char bytes[4 + 16 + 6];
    merge(notes, 2);
    CHECK_INT(merged_size, sizeof bytes);
    for (size_t length = 1; length < sizeof bytes; length++) CHECK(!tidemark_notes_valid(merged, length));
    static const struct {
        size_t at;
        unsigned char byte;
    } damage[] = {
        {0, 1},  {0, 3},    {2, 1},    {3, 255}, /* count */
        {4, 2},  {4, 3},                         /* not in ascending order */
        {6, 2},  {6, 4},    {7, 1},              /* length */
        {8, 1},  {11, 1},                        /* start of the first one */
        {12, 1}, {12, 0},                        /* a shard twice; not in order */
        {14, 4}, {14, 129},                      /* beyond the end */
        {16, 2}, {16, 4},   {19, 128},           /* start of the second one */
    };
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        memcpy(bytes, merged, sizeof bytes);
        bytes[damage[i].at] = damage[i].byte;
        CHECK(!tidemark_notes_valid(bytes, sizeof bytes));
    }
    /* too long although the whole has room for it */
    static unsigned char large[4 + 8 + 200];
    tidemark_put32(large, 1);
    tidemark_put16(large + 6, TIDEMARK_NOTE_MAX);
    CHECK(tidemark_notes_valid(large, 4 + 8 + TIDEMARK_NOTE_MAX));
    tidemark_put16(large + 6, TIDEMARK_NOTE_MAX + 1);
    CHECK(!tidemark_notes_valid(large, 4 + 8 + TIDEMARK_NOTE_MAX + 1));
    drop();
}

int main(void) {
    RUN(test_no_notes);
    RUN(test_the_bytes);
    RUN(test_merging);
    RUN(test_the_last_of_one_shard_counts);
    RUN(test_dropping);
    RUN(test_as_many_as_there_are);
    RUN(test_malformed);
    return FINISH();
}
