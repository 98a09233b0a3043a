/* Watches with a pipe in place of an eventfd, as on systems that have none. */
#define TIDEMARK_WAKE_PIPE
#include "watch.c"
