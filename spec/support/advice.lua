--- What specs of advice need: messages that must be there, words that are taken out of them, disks that fail, processes that fork.

local assert = require "luassert"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local advice = {}

--- The message, which must have these words.
---@param message string?
---@param ... string
---@return string message
function advice.said(message, ...)
  for _, words in ipairs { ... } do
    assert(message and message:find(words, 1, true), ("'%s' is not said: %s"):format(words, tostring(message)))
  end
  return message
end

--- What the message has at the captures of the pattern.
---@return string ...
function advice.taken(message, pattern)
  local function check(...)
    assert((...), ("no '%s' in: %s"):format(pattern, message))
    return ...
  end
  return check(message:match(pattern))
end

--- The results of a call that must fail with that code: its message.
---@return string message
function advice.refused(code, result, message, found)
  assert.same({ nil, code }, { result, found }, message)
  return message
end

-- ---- the command line ----

--- Makes the pauses between a follower's attempts, 25 s altogether, a hundred times shorter.
advice.FAST_CLOCK = [[
  local clock = require("tidemark.core").clock
  local now, sleep = clock.now, clock.sleep
  clock.now = function() return now() * 100 end
  clock.sleep = function(seconds) sleep(seconds / 100) end
]]

--- Types the command that standard error has at the capture of the pattern: what came of it.
---@param result { err: string }
---@param pattern string
---@param ... string more words at its end
---@return { code: integer|string, out: string, err: string }
function advice.type(result, pattern, ...)
  local command = table.concat({ advice.taken(result.err, pattern), ... }, " ")
  return command_line.run_shell(command)
end

--- The options that standard error tells to add: an array of words.
---@param result { err: string }
---@return string[]
function advice.options(result)
  local words = {}
  for word in advice.taken(result.err, "with tidemark append add (%-%-[^,\n]+)"):gmatch "[^ ]+" do
    words[#words + 1] = word
  end
  return words
end

-- ---- what is written in C ----

-- A module with fork: 0 in the child; in the parent, the child's exit code once it has ended.
local FORK = [[
#include <lauxlib.h>
#include <sys/wait.h>
#include <unistd.h>
static int run(lua_State *L) {
    int status = 0;
    pid_t pid = fork();
    if (pid < 0) return luaL_error(L, "fork failed");
    if (pid > 0 && waitpid(pid, &status, 0) != pid) return luaL_error(L, "waitpid failed");
    lua_pushinteger(L, pid == 0 ? 0 : WIFEXITED(status) ? WEXITSTATUS(status) : 255);
    lua_pushboolean(L, pid == 0);
    return 2;
}
int luaopen_fork(lua_State *L) {
    lua_pushcfunction(L, run);
    return 1;
}
]]

-- A disk whose syncs fail while the file that SICK_DISK names is there.
local SICK = [[
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int sync_with(long call, int fd) {
    const char *sick = getenv("SICK_DISK");
    if (sick != NULL && access(sick, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, fd);
}
int fsync(int fd) { return sync_with(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }
]]

local function build(directory, name, source, flags)
  local path = ("%s/%s.so"):format(directory, name)
  local file = assert(io.open(("%s/%s.c"):format(directory, name), "wb"))
  assert(file:write(source))
  file:close()
  local command = ("LD_PRELOAD= cc -shared -fPIC -O1 %s '%s/%s.c' -o '%s'"):format(flags, directory, name, path)
  assert(os.execute(command))
  return path
end

--- Makes the module `fork` in a directory: the pattern for package.cpath.
---@param directory string
---@return string
function advice.fork_module(directory)
  local version = _VERSION:match "%d%.%d"
  build(directory, "fork", FORK, ("$(pkg-config --cflags lua%s)"):format(version))
  return directory .. "/?.so"
end

--- Words for env: the program after them has a disk whose syncs fail while the file `sick` is there.
---@param directory string
---@param sick string
---@return string[]
function advice.sick_disk(directory, sick)
  local preload = ("%s %s"):format(os.getenv "LD_PRELOAD" or "", build(directory, "sick", SICK, ""))
  return { "env", "LD_PRELOAD=" .. preload, "SICK_DISK=" .. sick }
end

--- Runs Lua source in a process with such a disk: its output, which ends with "done". Fails otherwise.
---@param words string[] of sick_disk
---@param script string
---@return string
function advice.run_sick(words, script, ...)
  local all = table.move(words, 1, #words, 1, {})
  for _, word in ipairs(sandbox.command(script, ...)) do
    all[#all + 1] = word
  end
  for i, word in ipairs(all) do
    all[i] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  local pipe = assert(io.popen(table.concat(all, " ") .. " 2>&1 </dev/null"))
  local output = pipe:read "a"
  pipe:close()
  assert(output:find "done\n$", output)
  return output
end

return advice
