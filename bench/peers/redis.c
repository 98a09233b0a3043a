/*
 * Redis as a contender: one value, as long as a checkpoint's text, set under one key of a server of our own that syncs
 * its file before it answers (appendfsync always), over a socket in the directory. The size of the case is the value's,
 * in bytes; the answer is microseconds per save.
 */
#define _DEFAULT_SOURCE 1
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "../workers/disk.h"

#define ANSWER 65536 /* bytes, more than any */

static pid_t server;
static int connection = -1;
static char *value, *request;
static size_t value_size;

static void stop_server(void) {
    if (getpid() != disk_owner || server <= 0) return;
    (void)kill(server, SIGKILL);
    (void)waitpid(server, NULL, 0);
}

static void start_server(void) {
    disk_need_directory();
    server = fork();
    if (server < 0) disk_fail("fork");
    if (server == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(null, 0);
        (void)dup2(null, 1);
        if (chdir(disk_directory) < 0) _exit(127);
        (void)execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", "redis.socket", "--save", "",
                     "--appendonly", "yes", "--appendfsync", "always", "--dir", ".", (char *)NULL);
        _exit(127);
    }
    (void)atexit(stop_server); /* before the directory is removed */
}

/* The path of a socket is short: it is reached through the directory. */
static void connect_to_server(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "redis.socket"};
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (here < 0 || chdir(disk_directory) < 0) disk_fail("chdir");
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (int tries = 0; connect(connection, (struct sockaddr *)&address, sizeof address) < 0; tries++) {
        if (tries == 1000 || waitpid(server, NULL, WNOHANG) != 0) bench_fail("skip: redis-server does not start");
        (void)usleep(10000);
    }
    if (fchdir(here) < 0) disk_fail("fchdir");
    (void)close(here);
}

/* Sends the request and reads until the answer ends with `end`, which is its only place there. */
static const char *talk(const char *bytes, size_t size, const char *end) {
    static char answer[ANSWER];
    size_t length = 0, ending = strlen(end);
    for (size_t sent = 0; sent < size;) {
        ssize_t done = write(connection, bytes + sent, size - sent);
        if (done <= 0) disk_fail("write to redis-server");
        sent += (size_t)done;
    }
    do {
        ssize_t done = read(connection, answer + length, sizeof answer - 1 - length);
        if (done <= 0) disk_fail("read from redis-server");
        length += (size_t)done;
        answer[length] = '\0';
    } while (length < ending || memcmp(answer + length - ending, end, ending) != 0);
    return answer;
}

/* Asks in Redis's inline form. */
static const char *ask(const char *line, const char *end) {
    return talk(line, strlen(line), end);
}

static void save_once(void) {
    value[0] = value[0] == 'z' ? 'a' : (char)(value[0] + 1);
    int head = sprintf(request, "*3\r\n$3\r\nSET\r\n$5\r\nmarks\r\n$%zu\r\n", value_size);
    memcpy(request + head, value, value_size);
    memcpy(request + head + value_size, "\r\n", 2);
    const char *answer = talk(request, (size_t)head + value_size + 2, "\r\n");
    if (strcmp(answer, "+OK\r\n") != 0) bench_fail("SET failed");
}

static double save(unsigned size) {
    char wanted[64];
    if (connection < 0) {
        value_size = size;
        value = malloc(size);
        request = malloc(size + 128);
        if (size > ANSWER / 2 || value == NULL || request == NULL) bench_fail("no memory");
        memset(value, 'v', size);
        start_server();
        connect_to_server();
        if (strstr(ask("CONFIG GET appendfsync\r\n", "\r\n"), "always") == NULL) bench_fail("saves are not durable");
    }
    double us = disk_time(save_once);
    (void)snprintf(wanted, sizeof wanted, "$%zu\r\n%.8s", value_size, value);
    if (strncmp(ask("GET marks\r\n", "v\r\n"), wanted, strlen(wanted)) != 0)
        bench_fail("it does not have the last value");
    return us;
}

int main(int count, char **arguments) {
    static const struct bench_case cases[] = {{"save", NULL, NULL, save}, {NULL, NULL, NULL, NULL}};
    return bench_serve(count, arguments, cases);
}
