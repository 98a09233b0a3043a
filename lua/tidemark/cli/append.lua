--- tidemark append: lines become records of a log.

local cjson = require("cjson.safe").new()
local uv = require "luv"
local Wal = require "tidemark.wal"
local lines = require "tidemark.cli.lines"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"
local typed = require "tidemark.cli.typed"

local MENDED = "once it is mended"
local BATCH_BYTES = 1048576 -- a batch has no more unless it is of one record, whatever --batch says
local PENDING_BYTES = 67108864 -- of all shards: then all are written
local BATCH = 100 -- of records, by default
local STDIN = "-" -- the name of standard input
local DELAY = 0.1 -- seconds that a record may wait for others to fill its batch
local RECORD_BYTES = 67108864 - 64 - 4 -- the most a record can have: a batch has 64 MiB, with its header and the record's end

cjson.decode_invalid_numbers(false)

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
    return nil, "is no JSON object: " .. (message or "it is " .. (object == cjson.null and "null" or "a " .. type(object)))
  end
  local value = object[field]
  if type(value) == "string" then
    return value
  elseif type(value) == "number" then
    return ("%.17g"):format(value + 0.0) -- -0 is 0
  elseif type(value) == "boolean" then
    return tostring(value)
  end
  return nil, ("has no string, number or boolean in its field '%s'"):format(field)
end

-- The shards of the log that is there, nil if there is none; or nil, message, code. Wal.open says more of heads that are damaged or
-- missing.
local function shards_there(directory)
  local source, message, code = Wal.source(directory) -- unlike Wal.heads it does not give a log that is not made to its end
  if code == "NOT_FOUND" or code == "CORRUPT" or code == "LOST" then
    return nil
  elseif not source then
    return nil, message, code
  end
  local shards = source:shards()
  source:close()
  return shards
end

local function shards_wanted(options)
  local there, message, code = shards_there(options.dir)
  if message then
    return nil, message, code
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

-- The marks of all --accept-loss, {[shard] = seqno}.
local function accept_loss(options)
  local marks = {}
  for _, mark in ipairs(options.accept_loss) do
    marks[mark.shard] = mark.seqno
  end
  return marks
end

-- Collects records and writes them in batches. `failure` and `code` tell of a write that failed: nothing more is written then.
local function new_writer(wal, shards, limit)
  local writer = { records = 0, batches = 0, failure = nil, code = nil }
  local pending, sizes, total = {}, {}, 0 -- by shard: records, and their bytes
  local oldest -- when the first of them came

  local function flush(shard)
    local records = pending[shard]
    if writer.failure or not records then
      return writer.failure
    end
    local first
    first, writer.failure, writer.code = wal:append(shard, records)
    if not first then
      return writer.failure
    end
    writer.failure = nil -- it was the last seqno
    writer.records, writer.batches = writer.records + #records, writer.batches + 1
    total = total - sizes[shard]
    pending[shard], sizes[shard] = nil, nil
  end

  function writer.flush_all()
    for _, shard in ipairs(shards) do
      local message = flush(shard)
      if message then
        return message
      end
    end
    oldest = nil
  end

  function writer.flush_if_due()
    if oldest and uv.hrtime() - oldest >= DELAY * 1e9 then
      return writer.flush_all()
    end
  end

  function writer.add(key, record)
    local shard = shards[#shards > 1 and hash(key) % #shards + 1 or 1]
    if (sizes[shard] or 0) + #record > BATCH_BYTES and flush(shard) then
      return writer.failure
    end
    local records = pending[shard] or {}
    records[#records + 1] = record
    pending[shard], sizes[shard], total = records, (sizes[shard] or 0) + #record, total + #record
    oldest = oldest or uv.hrtime()
    if #records >= limit and flush(shard) then
      return writer.failure
    end
    return total > PENDING_BYTES and writer.flush_all() or nil
  end

  return writer
end

-- "...: once that line is mended, type: tail -n +3 FILE | tidemark append LOG": how to go on with line `number` of a file, and the files
-- after it.
local function go_on(options, position, number, once)
  local name, rest = options.file[position], table.move(options.file, position + 1, #options.file, 1, {})
  local text = "; all lines before were appended, nothing after: " .. once
  if name == STDIN then
    return text .. ", append it and those after it"
  end
  local words = { typed.program(), "append", typed.quote(options.dir) }
  if options.key then
    words[#words + 1] = "--key " .. typed.quote(options.key)
  end
  if options.batch ~= BATCH then
    words[#words + 1] = ("--batch %d"):format(options.batch)
  end
  local append, files, has_input = table.concat(words, " "), {}, false
  for i, file in ipairs(rest) do
    files[i], has_input = " " .. typed.quote(file), has_input or file == STDIN
  end
  local command = ("tail -n +%d %s | %s"):format(number, typed.quote(name), append)
  if has_input then -- which is not the pipe
    command = ("%s && %s%s"):format(command, append, table.concat(files))
  elseif #files > 0 then
    command = ("%s -%s"):format(command, table.concat(files))
  end
  return ("%s, type: %s"):format(text, command)
end

-- Appends the lines of one of the files; "-" is standard input. Returns how many lines were read, and a message when it failed.
local function append_file(position, options, writer, progress)
  local name = options.file[position]
  local title, read = name == STDIN and "standard input" or name, 0
  local fd, message = lines.open(name ~= STDIN and name or nil)
  if not fd then
    return read, message .. go_on(options, position, 1, "once it can be read")
  end
  message = lines.each(fd, {
    each = function(line, number)
      local key, wrong = key_of(line, options.key)
      if not key then
        return ("line %d of %s %s%s"):format(number, title, wrong, go_on(options, position, number, MENDED))
      end
      read = number
      progress:show(function()
        return ("%s appended, line %s of %s"):format(terminal.amount(writer.records, "record"), terminal.thousands(number), title)
      end)
      return writer.add(key, line)
    end,
    longest = RECORD_BYTES,
    too_long = function(number)
      return ("line %d of %s has more than %s bytes, the most that a record can have%s"):format(
        number, title, terminal.thousands(RECORD_BYTES), go_on(options, position, number, MENDED))
    end,
    cannot_read = function(reason)
      return ("%s: line %d cannot be read: %s%s"):format(title, read + 1, reason,
        go_on(options, position, read + 1, "once it can be read"))
    end,
    on_tick = writer.flush_if_due,
  })
  lines.close(fd)
  return read, message
end

-- Appends all files: how many lines were read, a message when one failed, and where a signal ended it, if one did.
local function append_files(options, writer, progress)
  local total = 0
  for position, name in ipairs(options.file) do
    local read, message = append_file(position, options, writer, progress)
    total = total + read
    if message then
      return total, message
    elseif signals.stopped then
      return total, nil, name ~= STDIN and ("ended by a signal at line %d of %s"):format(read, name)
    end
  end
  return total
end

local function describe_heads(wal, shards)
  local heads = {}
  for i = 1, math.min(#shards, 16) do
    heads[i] = ("%d:%d"):format(shards[i], wal:head(shards[i]))
  end
  return table.concat(heads, " ") .. (#shards > 16 and " ..." or "")
end

local function summary(wal, shards, writer)
  return ("%s appended in %s; heads %s"):format(
    terminal.amount(writer.records, "record"), terminal.amount(writer.batches, "batch", "batches"), describe_heads(wal, shards))
end

local function look_again(options)
  return ("type %s append %s </dev/null"):format(typed.program(), typed.quote(options.dir))
end

-- A batch was not written. It may be there all the same when the log is opened again, so the way on is to look. `before`: the heads then.
local function describe_failure(writer, read, options, before)
  local message = writer.failure .. (writer.code and (" (%s)"):format(writer.code) or "")
  local look = look_again(options)
  message = ("%s; of %d lines read %d were appended"):format(message, read, writer.records)
  local shard, head = before:match "^(%d+):(%d+)$"
  if not shard then -- which lines went to which shard is not kept
    return ("%s, and the heads were %s before. Once the cause is gone, %s, which says what is there"):format(message, before, look)
  end
  return ("%s. Once the cause is gone, %s: if it says heads %s:N, the first N%s lines are there, append those after them"):format(
    message, look, shard, head == "0" and "" or " - " .. head)
end

-- Why one of the files cannot be read, if one cannot: told before anything is made.
local function find_unreadable(names)
  for _, name in ipairs(names) do
    if name ~= STDIN then
      local status, message = uv.fs_stat(name)
      if not status then
        return message
      elseif status.type == "directory" then
        return name .. ": is a directory"
      end
      local readable
      readable, message = uv.fs_access(name, "R")
      if not readable then
        return message or name .. ": is not readable"
      end
    end
  end
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  signals.take()
  options.file = options.file[1] and options.file or { STDIN }
  local message = find_unreadable(options.file)
  if message then
    return 1, message
  end
  local shards, wal, code
  shards, message, code = shards_wanted(options)
  if shards then
    wal, message, code = Wal.open(options.dir, { shards = shards, epoch = options.epoch, accept_loss = accept_loss(options) })
  end
  if wal then -- those of the log, for another writer may have begun to make it, with more
    shards, message, code = shards_there(options.dir)
  end
  if not wal or not shards then
    return 1, message, code
  end
  for _, note in ipairs(wal:recovery()) do
    io.stderr:write("recovered: ", note, "\n")
  end
  local before = describe_heads(wal, shards)
  local writer, progress = new_writer(wal, shards, options.batch), terminal.progress()
  local read, wrong, ended = append_files(options, writer, progress)
  local failure = writer.flush_all()
  progress:clear()
  local _, unwritten = terminal.write(summary(wal, shards, writer), ended and "; " .. ended or "", "\n")
  local closed, why, why_code = wal:close()
  if failure then
    return 1, describe_failure(writer, read, options, before)
  elseif wrong then
    return 1, wrong
  elseif not closed then
    return 1, ("%s%s; all lines were appended. Once the cause is gone, %s, which says what is there"):format(
      why, why_code and (" (%s)"):format(why_code) or "", look_again(options))
  end
  return unwritten and 1 or 0, unwritten
end
