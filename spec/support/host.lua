--- Servers that host tidemark, for the specs of examples/: where their programs are, starting and ending them on 127.0.0.1, and
--- asking them with curl. Needs luv. What is started is ended by sandbox.cleanup at the latest.

local command_line = require "spec.support.command_line"
local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local uv = require "luv"

local host = {}

--- The path of a program, or nil. Servers lie in directories that only root's PATH has.
---@param name string
---@return string? path
function host.program(name)
  local ok, output = shell.run(("PATH=\"$PATH:/usr/sbin:/usr/local/sbin\" command -v '%s'"):format(name))
  return ok and output:match "[^\n]+" or nil
end

--- Why specs that need these programs cannot run here, or nil: they can.
---@param ... string
---@return string? reason
function host.missing(...)
  for _, name in ipairs { ... } do
    if not host.program(name) then
      return name .. " is not installed (make host-deps)"
    end
  end
  if os.getenv "LD_PRELOAD" then
    return "no server is built with this sanitizer"
  end
end

--- Why specs that run a server as this user cannot run here, or nil: they can.
---@param user string
---@return string? reason
function host.cannot_become(user)
  if uv.getuid() ~= 0 then
    return "only root can become another user"
  elseif not shell.run(("setpriv --reuid='%s' --regid='%s' --init-groups true"):format(user, user)) then
    return user .. " is no user or can run no program here, for instance because / is closed to others"
  end
end

--- The words before a server's own: `env` with the modules of this tree for its Lua. Builds the core for that Lua if need be.
---@param version string "5.3"
---@param directory string the server's working directory
---@return string[]
function host.environment(version, directory)
  local here = assert(uv.cwd())
  local module = ("build/lua%s/tidemark/core.so"):format(version)
  local ok, output = shell.run(("MAKEFLAGS= make -s LUA=%s BUILD=build %s"):format(version, module))
  assert(ok, output)
  local suffix = version:gsub("%.", "_")
  return {
    "env",
    "--chdir=" .. directory,
    ("LUA_PATH_%s=%s/lua/?.lua;%s/lua/?/init.lua;;"):format(suffix, here, here),
    ("LUA_CPATH_%s=%s/build/lua%s/?.so;;"):format(suffix, here, version),
  }
end

--- Ports of 127.0.0.1 on which nobody listens, different ones.
---@param count integer
---@return integer ... ports
function host.free_ports(count)
  local sockets, ports = {}, {}
  for i = 1, count do
    sockets[i] = uv.new_tcp()
    assert(sockets[i]:bind("127.0.0.1", 0))
    ports[i] = sockets[i]:getsockname().port
  end
  for _, socket in ipairs(sockets) do
    socket:close()
  end
  uv.run "nowait" -- closes them
  return table.unpack(ports)
end

--- Whether somebody accepts connections on that port of 127.0.0.1.
---@param port integer
---@return boolean
function host.listens(port)
  local socket, done, failure = uv.new_tcp(), false, nil
  socket:connect("127.0.0.1", port, function(reason)
    done, failure = true, reason
    socket:close()
  end)
  repeat
    uv.run "once"
  until done
  uv.run "nowait"
  return failure == nil
end

--- Starts a server and waits until it listens on all of `ports`. Raises with what it told when it ends instead.
---@param words string[]
---@param ports integer[]
---@return Child child its standard error is in child.errors
function host.start(words, ports)
  local child = sandbox.spawn(words, true)
  for _, port in ipairs(ports) do
    command_line.wait_until(("%s does not listen on port %d"):format(words[1], port), function()
      local listens = host.listens(port)
      assert(not child.exit_code, "the server ended: " .. child.errors)
      return listens
    end)
  end
  return child
end

--- Ends a server with a signal, by its own process id, and waits for it.
---@param child Child
---@param signal string "sigterm"
---@return boolean ok
---@return string how "exit" or "signal"
---@return integer code exit code or signal
function host.stop(child, signal)
  child:signal_with(signal)
  return child:wait()
end

--- The process ids of a process's children.
---@param pid integer
---@return integer[]
function host.children(pid)
  local pids = {}
  for child in (command_line.read(("/proc/%d/task/%d/children"):format(pid, pid)) or ""):gmatch "%d+" do
    pids[#pids + 1] = math.tointeger(tonumber(child))
  end
  return pids
end

--- Runs the lines of the first `sh` block of a page, as a reader at the top of the tree would, and waits for what they started.
---@param page string
---@param changes string[][] plain text in the lines and what stands for it here, as ports and paths; one after the other
---@return string output of the programs, without what they tell on standard error
function host.run_readme(page, changes)
  local lines
  for _, block in ipairs(markdown.blocks(markdown.read(page))) do
    lines = lines or block.language == "sh" and block.text or nil
  end
  for i, change in ipairs(changes) do
    local found
    lines, found = lines:gsub(change[1]:gsub("%p", "%%%0"), ("\1%d\1"):format(i)) -- lest a later change finds it in this one
    assert(found > 0, ("%s has no %s"):format(page, change[1]))
  end
  lines = lines:gsub("\1(%d+)\1", function(i)
    return changes[tonumber(i)][2]
  end)
  -- timeout ends what they started as well, which it keeps in a process group of its own
  local words = { "env", "MAKEFLAGS=", "timeout", tostring(command_line.PATIENCE - 10), "bash", "-c", lines .. "\nwait" }
  local result = command_line.run_words(words)
  assert(result.code == 0, result.err)
  return result.out
end

---@class Connection
local Connection = {}
Connection.__index = Connection

--- A connection to a port of 127.0.0.1.
---@param port integer
---@return Connection
function host.connect(port)
  local connection = setmetatable({ socket = uv.new_tcp(), unread = "" }, Connection)
  connection.socket:connect("127.0.0.1", port, function(failure)
    assert(not failure, failure)
    connection.socket:read_start(function(reason, bytes)
      connection.unread = connection.unread .. (bytes or "")
      connection.ended = not bytes and (reason or "end") or nil
    end)
    connection.connected = true
  end)
  connection:wait_until "connected"
  return connection
end

-- Turns the event loop until a field is set.
function Connection:wait_until(field)
  local timer = uv.new_timer()
  uv.update_time() -- see sandbox's run_until
  timer:start(command_line.PATIENCE * 1000, 0, function()
    self.late = true
  end)
  while not self[field] and not self.late do
    if field == "line" then
      self.line = self.unread:match "^([^\n]*)\n" or self.ended
    end
    if not self[field] then
      uv.run "once"
    end
  end
  timer:close()
  assert(self[field], "the server did not answer in time")
end

--- Sends bytes; does not wait for anything.
---@param bytes string
function Connection:send(bytes)
  self.socket:write(bytes)
end

--- The next line that comes, without the line end; nil where the server closed the connection.
---@return string? line
function Connection:read_line()
  self.line = nil
  self:wait_until "line"
  local line, rest = self.unread:match "^([^\n]*)\n(.*)$"
  self.unread = rest or ""
  return line
end

--- Sends a line and gives the line that comes back.
---@param line string
---@return string? answer
function Connection:ask(line)
  self:send(line .. "\n")
  return self:read_line()
end

function Connection:close()
  self.socket:close()
  uv.run "nowait"
end

--- Asks with curl: the status, the body and the head of the answer. Further arguments are curl's.
---@param port integer
---@param path string
---@return integer? status nil where there was no answer
---@return string body
---@return string head
function host.ask(port, path, ...)
  local words = { "curl", "--silent", "--include", "--max-time", "30", ... }
  words[#words + 1] = ("http://127.0.0.1:%d%s"):format(port, path)
  local result = command_line.run_words(words)
  local head, body = result.out:match "^(.-\r\n)\r\n(.*)$"
  if not head then
    return nil, result.out, ""
  end
  return math.tointeger(tonumber(head:match "^HTTP/[%d.]+ (%d+)")), body, head
end

return host
