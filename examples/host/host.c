/* A server that embeds Lua: THREADS threads, each with a lua_State of its own, share one tidemark_state in memory. Each
 * serves one connection at a time on 127.0.0.1: a line comes in, script.lua makes the answer, a line goes out.
 *
 *     host SCRIPT PORT THREADS
 *
 * SIGTERM and SIGINT end it. Port 0 is any free one; which, is printed. */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <lualib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <tidemark_lua.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64

struct host {
    const char *script;
    tidemark_state *state;
    int listener;       /* does not block: all threads wait for it, one gets the connection */
    int stop;           /* the read end of a pipe that nobody writes to: hangs up when the host is to end */
    atomic_int running; /* threads */
};

struct worker {
    pthread_t thread;
    lua_State *L; /* this thread's own once it runs; at index 1 the function that answers a line */
    struct host *host;
};

struct line {
    const char *bytes;
    size_t length;
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* ---- Lua ---- */

/* Protected, for all of this may raise: (host) -> the function that answers a line. */
static int prepare(lua_State *L) {
    const struct host *host = lua_touserdata(L, 1);
    luaL_openlibs(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidemark.core");
    lua_call(L, 1, 0);
    if (luaL_loadfile(L, host->script) != LUA_OK) return lua_error(L);
    tidemark_lua_push(L, host->state); /* a handle with a reference of its own, which lua_close drops */
    lua_call(L, 1, 1);
    return 1;
}

static lua_State *new_lua(struct host *host) {
    lua_State *L = luaL_newstate();
    if (L == NULL) die("luaL_newstate");
    lua_pushcfunction(L, prepare);
    lua_pushlightuserdata(L, host);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        exit(1);
    }
    return L;
}

/* Protected: (function, line) -> its answer, a string with a line end. */
static int answer(lua_State *L) {
    const struct line *line = lua_touserdata(L, 2);
    lua_settop(L, 1);
    lua_pushlstring(L, line->bytes, line->length);
    lua_call(L, 1, 1);
    luaL_checkstring(L, 1);
    lua_pushliteral(L, "\n");
    lua_concat(L, 2);
    return 1;
}

/* ---- one connection ---- */

/* Waits until there is something to read or accept: whether there is; 0 when the host is to end. */
static int wait_readable(const struct host *host, int fd) {
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = host->stop, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0) {
        if (errno != EINTR) die("poll");
    }
    return fds[1].revents == 0;
}

static int send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) return -1;
        bytes += sent;
        length -= (size_t)sent;
    }
    return 0;
}

/* Answers a line: 0, or -1 where the connection is to be closed. */
static int answer_line(lua_State *L, int fd, struct line line) {
    size_t length = 0;
    lua_pushcfunction(L, answer);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, &line);
    int status = lua_pcall(L, 2, 1, 0);
    const char *text = lua_tolstring(L, -1, &length);
    if (status != LUA_OK) fprintf(stderr, "%s\n", text != NULL ? text : "an error that is no string");
    int result = status == LUA_OK ? send_all(fd, text, length) : -1;
    lua_settop(L, 1);
    return result;
}

/* Until the client is done or the host is to end. A client that sends a longer line than there is room for is done. */
static void converse(const struct worker *worker, int fd) {
    char bytes[512], *end;
    size_t length = 0;
    while (length < sizeof bytes && wait_readable(worker->host, fd)) {
        ssize_t received = recv(fd, bytes + length, sizeof bytes - length, 0);
        if (received <= 0) return;
        length += (size_t)received;
        while ((end = memchr(bytes, '\n', length)) != NULL) {
            struct line line = {bytes, (size_t)(end - bytes)};
            if (answer_line(worker->L, fd, line) < 0) return;
            length -= line.length + 1;
            memmove(bytes, end + 1, length);
        }
    }
}

/* A thread. */
static void *serve(void *argument) {
    const struct worker *worker = argument;
    struct host *host = worker->host;
    static const struct timeval patience = {.tv_sec = 5}; /* with a client that does not read */
    static const struct timespec moment = {.tv_nsec = 10000000};
    while (wait_readable(host, host->listener)) {
        int fd = accept(host->listener, NULL, NULL);
        if (fd < 0) { /* another thread was first, the client is gone, or there is no descriptor until one is closed */
            if (errno == EMFILE || errno == ENFILE) (void)nanosleep(&moment, NULL);
            continue;
        }
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        converse(worker, fd);
        (void)close(fd);
    }
    atomic_fetch_sub(&host->running, 1);
    return NULL;
}

/* ---- the host ---- */

static int listen_on(const char *port) {
    const int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) die("socket");
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 64) < 0) die("bind");
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || getsockname(fd, (struct sockaddr *)&address, &size) < 0) die("socket");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static void start(struct worker *workers, int count, struct host *host) {
    for (int i = 0; i < count; i++) workers[i] = (struct worker){.L = new_lua(host), .host = host};
    for (int i = 0; i < count; i++) {
        atomic_fetch_add(&host->running, 1);
        if (pthread_create(&workers[i].thread, NULL, serve, &workers[i]) != 0) die("pthread_create");
    }
}

/* Ends the threads, also those that wait for a mark. An interrupt ends the waits that go on at that moment, and a
 * thread may just be about to begin one: so it is repeated until all are gone. */
static void stop(struct worker *workers, int count, struct host *host) {
    const struct timespec moment = {.tv_nsec = 10000000};
    while (atomic_load(&host->running) > 0) {
        tidemark_state_interrupt(host->state);
        (void)nanosleep(&moment, NULL);
    }
    for (int i = 0; i < count; i++) {
        (void)pthread_join(workers[i].thread, NULL);
        lua_close(workers[i].L);
    }
}

int main(int argc, char **argv) {
    static struct worker workers[THREADS_MAX];
    static const uint32_t shards[] = {0, 1, 2, 3};
    int count = argc == 4 ? atoi(argv[3]) : 0, signal_number, ends[2];
    sigset_t signals;
    tidemark_error error;
    if (count < 1 || count > THREADS_MAX) {
        fprintf(stderr, "usage: host SCRIPT PORT THREADS (1 to %d)\n", THREADS_MAX);
        return 2;
    }
    struct host host = {.script = argv[1]};
    if (tidemark_state_new(shards, 4, &host.state, &error) < 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    /* before the threads, which inherit it: the signals come to sigwait alone */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pipe(ends) < 0) die("pipe");
    host.stop = ends[0];
    host.listener = listen_on(argv[2]);
    start(workers, count, &host);
    fflush(stdout);

    (void)sigwait(&signals, &signal_number);
    (void)close(ends[1]);
    stop(workers, count, &host);
    (void)close(host.listener);
    (void)close(host.stop);
    tidemark_state_release(host.state); /* the last reference: lua_close has dropped the others */
    printf("ended\n");
    return 0;
}
