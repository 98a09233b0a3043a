/* The module with a memory order that is too weak in one place: reading a mark does not acquire. Linked with
 * lua_threads in place of the right one; ThreadSanitizer must report it, so that its silence about lua_threads means
 * something. */
#include <stdatomic.h>

#define memory_order_acquire memory_order_relaxed

#include "../../../csrc/core/state.c"
#include "../../../csrc/lua/replication_state.c"
