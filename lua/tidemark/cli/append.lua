--- tidemark append: lines become records of a log.

local cjson = require "cjson.safe"
local uv = require "luv"
local Wal = require "tidemark.wal"
local lines = require "tidemark.cli.lines"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"

local BATCH_BYTES = 1048576 -- a batch is written when it has so many, whatever --batch says

-- FNV-1a, 32 bits (RFC 9923): which shard a key goes to is part of what a log is, so it must never change.
local function hash(text)
  local sum = 0x811C9DC5
  for i = 1, #text do
    sum = ((sum ~ text:byte(i)) * 0x01000193) & 0xFFFFFFFF
  end
  return sum
end

-- The text by which the record's shard is chosen, or nil and a message.
local function key_of(record, field)
  if not field then
    return record
  end
  local object, message = cjson.decode(record)
  if type(object) ~= "table" then
    return nil, "is no JSON object: " .. (message or "it is a " .. type(object))
  end
  local value = object[field]
  if type(value) == "string" then
    return value
  elseif type(value) == "number" then
    return ("%.17g"):format(value)
  elseif type(value) == "boolean" then
    return tostring(value)
  end
  return nil, ("has no string, number or boolean in its field '%s'"):format(field)
end

-- The shards of the log that is there, or nil.
local function shards_there(directory)
  local heads, message, code = Wal.heads(directory)
  if not heads then
    return nil, code ~= "NOT_FOUND" and message or nil
  end
  local shards = heads:shards()
  heads:close()
  return shards
end

local function shards_wanted(options)
  local there, message = shards_there(options.dir)
  if message then
    return nil, message
  elseif there and options.shards and options.shards ~= #there then
    return nil, ("%s: the log has %d shards, and their number cannot change: leave --shards out"):format(options.dir, #there)
  elseif there then
    return there
  end
  local shards = {}
  for shard = 0, (options.shards or 1) - 1 do
    shards[#shards + 1] = shard
  end
  return shards
end

-- Collects records and writes them in batches.
local function new_writer(wal, shards, limit)
  local writer = { pending = {}, sizes = {}, records = 0, batches = 0 }

  function writer.flush(shard)
    if not writer.pending[shard] then
      return
    end
    local first, message = wal:append(shard, writer.pending[shard])
    if not first then
      return message
    end
    writer.records, writer.batches = writer.records + #writer.pending[shard], writer.batches + 1
    writer.pending[shard] = nil
  end

  function writer.add(key, record)
    local shard = shards[hash(key) % #shards + 1]
    local records = writer.pending[shard] or {}
    local size = (writer.pending[shard] and writer.sizes[shard] or 0) + #record
    records[#records + 1] = record
    writer.pending[shard], writer.sizes[shard] = records, size
    if #records >= limit or size >= BATCH_BYTES then
      return writer.flush(shard)
    end
  end

  function writer.flush_all()
    for _, shard in ipairs(shards) do
      local message = writer.flush(shard)
      if message then
        return message
      end
    end
  end

  return writer
end

-- Appends the lines of one file; `name` nil is standard input. A message when it failed.
local function append_file(name, options, writer, progress)
  local fd = 0
  if name then
    local message
    fd, message = uv.fs_open(name, "r", 0)
    if not fd then
      return message
    end
  end
  local broken -- a flush that failed while there was no input
  local function each(line, number)
    local key, message = key_of(line, options.key)
    if not key then
      return ("line %d of %s %s; the lines before it were appended"):format(number, name or "standard input", message)
    end
    progress:show(function()
      return ("%s records appended, line %s of %s"):format(
        terminal.thousands(writer.records), terminal.thousands(number), name or "standard input")
    end)
    return broken or writer.add(key, line)
  end
  local _, message = lines.each(fd, each, function()
    broken = broken or writer.flush_all()
  end)
  if name then
    uv.fs_close(fd)
  end
  return message
end

local function summary(wal, shards, writer)
  local heads = {}
  for i = 1, math.min(#shards, 16) do
    heads[i] = ("%d:%d"):format(shards[i], wal:head(shards[i]))
  end
  return ("%s records appended in %s batches; heads %s%s"):format(
    terminal.thousands(writer.records), terminal.thousands(writer.batches), table.concat(heads, " "), #shards > 16 and " ..." or "")
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  signals.take()
  for _, name in ipairs(options.file) do -- before anything is made
    local status, message = uv.fs_stat(name)
    if not status or status.type == "directory" then
      return 1, message or name .. ": is a directory"
    end
  end
  local shards, message = shards_wanted(options)
  local wal
  if shards then
    wal, message = Wal.open(options.dir, { shards = shards })
  end
  if not wal then
    return 1, message
  end
  for _, note in ipairs(wal:recovery()) do
    io.stderr:write("recovered: ", note, "\n")
  end
  local writer, progress = new_writer(wal, shards, options.batch), terminal.progress()
  message = nil
  for i = 1, math.max(#options.file, 1) do
    message = message or not signals.stopped and append_file(options.file[i], options, writer, progress) or nil
  end
  local failure = writer.flush_all()
  progress:finish()
  print(summary(wal, shards, writer))
  local closed, why = wal:close()
  message = message or failure or not closed and why or nil
  return message and 1 or 0, message
end
