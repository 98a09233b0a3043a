--- A log in a directory of its own, for specs: opening, reading, looking into its files, writers in other processes.
---
---     before_each(function() directory = log.new() end)
---     after_each(log.close)

local assert = require "luassert"
local Wal = require "tidemark.wal"
local sandbox = require "spec.support.sandbox"

local log = {}
local handles = {}

--- Passes on the results of an opening; log.close closes it.
function log.keep(handle, ...)
  handles[#handles + 1] = handle
  return handle, ...
end

function log.open(options)
  return log.keep(Wal.open(log.directory, options))
end

function log.read(shard, after_seqno, options)
  return log.keep(Wal.reader(log.directory, shard, after_seqno, options))
end

--- What a shell command prints, by lines.
function log.lines(command)
  local pipe = io.popen(command)
  local result = {}
  for line in pipe:lines() do
    result[#result + 1] = line
  end
  pipe:close()
  return result
end

function log.segments()
  return log.lines(("ls '%s' 2>/dev/null | grep '[.]wal$'"):format(log.directory))
end

function log.bytes_of(name)
  local file = assert(io.open(log.directory .. "/" .. name, "rb"))
  local data = file:read "a"
  file:close()
  return data
end

function log.write(name, data)
  local file = assert(io.open(log.directory .. "/" .. name, "wb"))
  file:write(data)
  file:close()
end

--- Changes the byte at `offset` of a file.
function log.flip(name, offset)
  local data = log.bytes_of(name)
  log.write(name, data:sub(1, offset) .. string.char(data:byte(offset + 1) ~ 255) .. data:sub(offset + 2))
end

function log.segment_name(shard, first_seqno)
  return ("%05d-%020d.wal"):format(shard, first_seqno)
end

--- Seqnos and records that a reader gives without waiting, as one list, and the code with which it ended.
function log.drain(reader)
  local result = {}
  while true do
    local batch, _, code = reader:next(0)
    if not batch then
      return result, code
    end
    for seqno, record in batch:records() do
      result[#result + 1] = seqno .. "=" .. record
    end
  end
end

--- A pattern that matches `text` itself.
function log.plain(text)
  return (text:gsub("%p", "%%%0"))
end

--- That a call has failed: the code, a pattern of the message, and the results.
function log.assert_failure(code, pattern, result, message, got)
  assert.is_nil(result)
  assert.equal(code, got, message)
  assert(message:find(pattern), message)
end

-- Opens the log with these options (Lua source) and then runs each line that it is sent, with `wal` in scope, and
-- answers with its results. `later(wal)` is `wal` after a pause.
local WRITER = [[
  local directory, options = ...
  local Wal = require "tidemark.wal"
  local wal = assert(Wal.open(directory, load("return " .. options)()))
  io.stdout:setvbuf "line"
  print "open"
  local function later(value)
    require("tidemark.core").clock.sleep(0.2)
    return value
  end
  for line in io.lines() do
    local results = table.pack(assert(load("local wal, later = ...; return " .. line))(wal, later))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    print(table.concat(results, " "))
  end
]]

--- Starts such a child.
function log.start(options)
  local child = sandbox.start(WRITER, log.directory, options)
  assert.equal("open", child:read_line())
  return child
end

--- Sends Lua source of one or more lines.
function log.tell(child, source)
  assert(child:write((source:gsub("\n", " "))))
end

function log.ask(child, source)
  log.tell(child, source)
  return child:read_line()
end

function log.kill(child)
  child:kill()
  assert.same({ false, "signal", 9 }, { child:wait() })
end

--- A new place for a log, log.directory; nothing is there yet.
function log.new()
  log.directory, handles = sandbox.tempdir() .. "/log", {}
  return log.directory
end

--- Closes what log.keep, log.open and log.read have opened.
function log.close()
  for _, handle in ipairs(handles) do
    handle:close()
  end
end

return log
