--- Temporary directories and child processes for specs. Nothing that it made is left after `cleanup`, which a spec calls in its
--- last teardown.
---
---     local sandbox = require "spec.support.sandbox"
---     local ok, output = sandbox.lua([[print(...)]], "a", "b")

local sandbox = {}

local directories = {} -- made by tempdir
local children = {} -- started and not yet waited for
local scripts = 0

-- The interpreter of the children, as a list: TIDEMARK_LUA may be "valgrind -q lua5.4".
local interpreter = {}
for word in (os.getenv("TIDEMARK_LUA") or _VERSION:lower():gsub(" ", "")):gmatch("%S+") do
  interpreter[#interpreter + 1] = word
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- A new empty directory.
---@return string path
function sandbox.tempdir()
  local pipe = assert(io.popen('mktemp -d "${TMPDIR:-/tmp}/tidemark-spec.XXXXXX"'))
  local path = pipe:read("l")
  pipe:close()
  assert(path and path ~= "", "mktemp made no directory")
  directories[#directories + 1] = path
  return path
end

--- The command that runs `script` (Lua source) with these arguments, as a list of words.
---@param script string
---@return string[]
function sandbox.command(script, ...)
  sandbox.scripts = sandbox.scripts or sandbox.tempdir()
  scripts = scripts + 1
  local path = ("%s/script%d.lua"):format(sandbox.scripts, scripts)
  local file = assert(io.open(path, "wb"))
  assert(file:write(script))
  assert(file:close())
  local words = { table.unpack(interpreter) }
  words[#words + 1] = path
  for i = 1, select("#", ...) do
    words[#words + 1] = tostring((select(i, ...)))
  end
  return words
end

--- Runs Lua source in a child process, with the arguments as strings, the environment of this process and no input.
---@param script string
---@return boolean ok it ended with exit code 0
---@return string output what it wrote to standard output and standard error
---@return string how "exit" or "signal"
---@return integer code exit code or signal
function sandbox.lua(script, ...)
  local words = sandbox.command(script, ...)
  for i, word in ipairs(words) do
    words[i] = quote(word)
  end
  local pipe = assert(io.popen("exec " .. table.concat(words, " ") .. " 2>&1 </dev/null"))
  local output = pipe:read("a")
  local ok, how, code = pipe:close()
  return ok == true, output, how, code
end

---@class Child
local Child = {}
Child.__index = Child

local PATIENCE = 120 -- seconds that read_line, write and wait wait for a child by default

local function read_into(child, pipe, field, ended)
  child[field] = ""
  pipe:read_start(function(failure, bytes)
    if bytes then
      child[field] = child[field] .. bytes
    else
      child[ended], child.failure = true, child.failure or failure
    end
  end)
end

local sigpipe -- a handle, kept for good

-- A child may end before it has read its input. Then the write to it fails, and must not end the specs.
local function survive_sigpipe(uv)
  if not sigpipe then
    sigpipe = uv.new_signal()
    sigpipe:start("sigpipe", function() end)
    sigpipe:unref()
  end
end

--- Starts a command, a list of words, and returns at once. Needs luv.
---@param words string[]
---@param errors? boolean keep its standard error in `child.errors`; otherwise it is that of this process
---@return Child child with .pid
function sandbox.spawn(words, errors)
  local uv = require "luv"
  survive_sigpipe(uv)
  local child = setmetatable({ uv = uv, input = uv.new_pipe(false), output = uv.new_pipe(false) }, Child)
  local error_pipe = errors and uv.new_pipe(false)
  local function on_exit(code, signal)
    child.exit_code, child.signal = code, signal
    child.process:close()
  end
  local options = { args = { table.unpack(words, 2) }, stdio = { child.input, child.output, error_pipe or 2 } }
  local process, pid = uv.spawn(words[1], options, on_exit)
  assert(process, pid)
  child.process, child.pid = process, pid
  read_into(child, child.output, "unread", "ended")
  if error_pipe then
    read_into(child, error_pipe, "errors", "errors_ended")
  else
    child.errors_ended = true
  end
  children[child] = true
  return child
end

--- Starts Lua source in a child process and returns at once. Its standard error is that of this process. Needs luv.
---@param script string
---@return Child child with .pid
function sandbox.start(script, ...)
  return sandbox.spawn(sandbox.command(script, ...))
end

--- The interpreter of the children, a new list of words.
---@return string[]
function sandbox.interpreter()
  return { table.unpack(interpreter) }
end

-- Turns the event loop until `done()`; raises after `seconds`.
local function run_until(child, done, seconds, what)
  local uv, late = child.uv, false
  local timer = uv.new_timer()
  uv.update_time() -- the timer starts at the time that the loop knows, which is old after work outside the loop
  timer:start(math.floor((seconds or PATIENCE) * 1000), 0, function()
    late = true
  end)
  while not done() and not late do
    uv.run("once")
  end
  timer:close()
  uv.run("nowait") -- closes it
  if not done() then
    error(("child %d %s in %g s"):format(child.pid, what, seconds or PATIENCE), 3)
  end
end

--- The next line of its standard output without the line end, or nil at its end. Raises when none comes in time.
---@param seconds? number
---@return string? line
function Child:read_line(seconds)
  run_until(self, function()
    return self.ended or self.unread:find("\n", 1, true)
  end, seconds, "wrote no line")
  local line, rest = self.unread:match("^([^\n]*)\n(.*)$")
  if line then
    self.unread = rest
  elseif self.unread ~= "" then
    line, self.unread = self.unread, ""
  end
  return line
end

--- Writes a line to its standard input.
---@param line string
---@return boolean? ok nil and a message when it no longer reads
---@return string? message
function Child:write(line)
  local done, failure = false, nil
  if self.input:is_closing() then
    return nil, "its standard input is closed"
  end
  assert(self.input:write(line .. "\n", function(reason)
    done, failure = true, reason
  end))
  run_until(self, function()
    return done
  end, nil, "read no line")
  if failure then
    return nil, failure
  end
  return true
end

--- Waits until `done()`, while the child's output is read; raises when it takes longer than `seconds`.
---@param done fun(): any
---@param what string that did not happen
---@param seconds? number
function Child:wait_until(done, what, seconds)
  run_until(self, done, seconds, what)
end

--- Sends it a signal, by its own process id.
---@param name string such as "sigint"
function Child:signal_with(name)
  if not self.exit_code then
    self.process:kill(name)
  end
end

--- Closes its standard input.
function Child:close_input()
  if not self.input:is_closing() then
    self.input:close()
  end
end

--- Ends it with SIGKILL, by its own process id. `wait` then tells so.
function Child:kill()
  self:signal_with "sigkill"
end

--- Closes its standard input and waits for its end.
---@param seconds? number
---@return boolean ok it ended with exit code 0
---@return string how "exit" or "signal"
---@return integer code exit code or signal
function Child:wait(seconds)
  self:close_input()
  run_until(self, function()
    return self.exit_code
  end, seconds, "did not end")
  children[self] = nil
  if self.signal ~= 0 then
    return false, "signal", self.signal
  end
  return self.exit_code == 0, "exit", self.exit_code
end

--- Ends what `start` started and removes what `tempdir` made.
function sandbox.cleanup()
  for child in pairs(children) do
    child:kill()
    child:wait()
  end
  for i, path in ipairs(directories) do
    os.execute("rm -rf " .. quote(path))
    directories[i] = nil
  end
  sandbox.scripts = nil
end

return sandbox
