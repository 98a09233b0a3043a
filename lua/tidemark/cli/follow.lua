--- tidemark follow: a follower of a log, into a database, a command or standard output.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local Wal = require "tidemark.wal"
local advice = require "tidemark.cli.advice"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"
local typed = require "tidemark.cli.typed"

local SLICE = 0.1 -- seconds between two looks at signals

local TABLE = "CREATE TABLE IF NOT EXISTS records (shard INTEGER, seqno INTEGER, record, PRIMARY KEY (shard, seqno)) WITHOUT ROWID"
local INSERT = "INSERT INTO records VALUES (?, ?, ?)"

-- ---- where the records go: each is {target =, close =}; what opens one gives it, or nil, message, code ----

local function open_db(path, shards)
  local found, FollowerDb = pcall(require, "tidemark.follower_db")
  if not found then
    return nil, "--db needs " .. typed.SQLITE
  end
  local sqlite = require "tidemark.sqlite"
  local db, message, code = FollowerDb.open(path, shards)
  if not db then
    return nil, message, code
  end
  local made
  made, message, code = db:exec(TABLE)
  if not made then
    db:close()
    return nil, message, code
  end
  local target = db:target(function(connection, record, seqno, shard)
    local is_text = utf8.len(record) and not record:find("\0", 1, true) -- a TEXT with anything else breaks SQL functions
    return connection:exec(INSERT, shard, seqno, is_text and record or sqlite.blob(record))
  end)
  return {
    target = target,
    close = function()
      db:close()
    end,
  }
end

-- A failed write ends everything, for a part of the batch may have been written.
local function print_batch(batch, sink)
  local parts = {}
  for _, record in batch:records() do
    parts[#parts + 1] = record
  end
  parts[#parts + 1] = ""
  local ok, message = terminal.write(table.concat(parts, "\n"))
  if not ok then
    signals.stopped, sink.failure = true, message
    return nil, message or "nobody reads standard output any more"
  end
  return true
end

-- The command is judged by its exit status alone: it may end before it has read its input, and then a write fails. One write without a
-- buffer leaves nothing that closing the pipe would have to write, and whose failure it would give in place of the status.
local function run_command(command, batch)
  local environment = ("export TIDEMARK_SHARD=%d TIDEMARK_FIRST_SEQNO=%d TIDEMARK_LAST_SEQNO=%d\n"):format(
    batch.shard, batch.first_seqno, batch.last_seqno)
  local pipe, message = io.popen(environment .. command, "w")
  if not pipe then
    return nil, message
  end
  local lines = {}
  for _, record in batch:records() do
    lines[#lines + 1] = record
  end
  lines[#lines + 1] = ""
  pipe:setvbuf "no"
  pipe:write(table.concat(lines, "\n"))
  local ok, how, code = pipe:close()
  if not ok then
    return nil, ("the command ended with %s %d"):format(how == "exit" and "exit code" or how, code)
  end
  return true
end

local function open_state(options, shards, progress)
  local state, message, code = ReplicationState.open(options.state, shards)
  if not state then
    return nil, message, code
  end
  local sink = { failure = nil } -- why nothing more can be written
  sink.target = StateTarget.new {
    state = state,
    apply = function(batch)
      progress:clear()
      if options.exec then
        return run_command(options.exec, batch)
      end
      return print_batch(batch, sink)
    end,
  }
  function sink.close()
    state:close()
  end
  return sink
end

local function check(options)
  if not options.db and not options.state then
    return "say where the marks are kept: --db FILE, or --state FILE with --exec CMD or --print"
  elseif options.state and not options.exec and not options.print then
    return "say what is done with the records: --exec CMD or --print"
  elseif options.db and (options.exec or options.print) then
    return "--db keeps the records in the database; --exec and --print go with --state"
  end
end

-- ---- running ----

-- Applied and head over all shards; head is nil where one is not known, or says nothing because its history is not known to be the same.
local function totals(status)
  local applied, head = 0, 0
  for _, shard in pairs(status) do
    applied = applied + shard.applied
    head = head and shard.lag and head + shard.head
  end
  return applied, head
end

local function progress_line(status)
  local applied, head = totals(status)
  if not head then
    return terminal.thousands(applied) .. " applied"
  end
  return ("%s %s of %s applied, lag %s"):format(
    terminal.bar(applied, head), terminal.thousands(applied), terminal.thousands(head), terminal.thousands(head - applied))
end

local function has_caught_up(status)
  for _, shard in pairs(status) do
    if shard.state == "catching_up" or shard.state == "live" and (not shard.lag or shard.lag > 0) then
      return false
    end
  end
  return true
end

-- Runs until a signal, a stop of all shards or, with --once, the end of the log.
local function run(follower, options, progress)
  while not signals.poll() do
    local applied = follower:step(SLICE)
    if not applied or options.once and applied == 0 and has_caught_up(follower:status()) then
      break
    end
    progress:show(function()
      return progress_line(follower:status())
    end)
  end
  progress:clear()
end

-- What is wrong with the shards, each with what to do, by shard. A log that is another one is the same trouble for all of them.
local function troubles(status, shards, options)
  local list = {}
  for _, shard in ipairs(shards) do
    local entry = status[shard]
    local context = { command = "follow", log = options.dir, db = options.db, state = options.state, shard = shard,
      common = entry.common, applied = entry.applied, head = entry.head }
    if entry.state == "foreign" and entry.verdict == "foreign" and not entry.error:find "^shard" then
      local file = (options.db or options.state):gsub("%%", "%%%%")
      return { advice(entry.error:gsub("^the target", file), entry.code, context) }
    elseif entry.state == "ahead_of_source" then
      local message = ("shard %d waits, ahead_of_source: %s"):format(shard, advice(entry.error, entry.code, context))
      list[#list + 1] = options.once and message or nil
    elseif entry.state ~= "live" and entry.state ~= "catching_up" then
      list[#list + 1] = ("shard %d has stopped, %s: %s"):format(shard, entry.state, advice(entry.error, entry.code, context))
    end
  end
  return list
end

-- Writes how far it has come: an exit code and a message.
local function report(follower, sink, options)
  local status = follower:status()
  local shards, batches, skipped = {}, 0, 0
  for shard, entry in pairs(status) do
    shards[#shards + 1] = shard
    batches, skipped = batches + entry.batches_applied, skipped + entry.batches_skipped
  end
  table.sort(shards)
  io.stderr:write(("%s; %s in this run, %s skipped\n"):format(
    progress_line(status), terminal.amount(batches, "batch", "batches"), terminal.thousands(skipped)))
  local wrong = troubles(status, shards, options)
  if #wrong > 0 then
    return 3, table.concat(wrong, "\ntidemark: ")
  end
  local ok, message, code = follower:run() -- it has ended: gives the failure of the last checkpoint, if it failed
  if sink.failure then
    return 1, sink.failure
  end
  return ok and 0 or 1, message, code
end

local function follow(source, sink, options, progress)
  local follower, message, code
  local shards, seen = source:shards(), {}
  for _, shard in ipairs(shards) do
    seen[shard] = true
  end
  for shard, mark in pairs(sink.target:state():snapshot()) do -- also those that the log does not have any more
    shards[#shards + 1] = mark > 0 and not seen[shard] and shard or nil
  end
  follower, message, code = Follower.new {
    target = sink.target,
    source = source,
    shards = shards,
    log = function(text)
      local is_foreign = follower:verdict(shards[1]) == "foreign" -- the end says so, with what to do
      if not is_foreign and not signals.poll() then -- what a signal breaks off is no failure
        progress:clear()
        io.stderr:write("tidemark: ", text, "\n")
      end
    end,
  }
  if not follower then
    return 1, message, code
  end
  run(follower, options, progress)
  follower:stop()
  local exit_code
  exit_code, message, code = report(follower, sink, options)
  follower:close()
  return exit_code, message, code
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  local wrong = check(options)
  if wrong then
    return 2, wrong
  end
  signals.take()
  local source, message, code = Wal.source(options.dir) -- first: without a log nothing is made
  if not source then
    return 1, message, code
  end
  local sink
  local progress = terminal.progress()
  if options.db then
    sink, message, code = open_db(options.db, source:shards())
  else
    sink, message, code = open_state(options, source:shards(), progress)
  end
  local exit_code = 1
  if sink then
    exit_code, message, code = follow(source, sink, options, progress)
    sink.close()
  end
  source:close()
  return exit_code, message, code
end
