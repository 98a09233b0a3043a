--- tidemark follow: a follower of a log, into a database, a command or standard output.

local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local signals = require "tidemark.cli.signals"
local terminal = require "tidemark.cli.terminal"

local SLICE = 0.1 -- seconds between two looks at signals

local TABLE = "CREATE TABLE IF NOT EXISTS records (shard INTEGER, seqno INTEGER, record, PRIMARY KEY (shard, seqno)) WITHOUT ROWID"

-- What a sink is: `state`, `apply(batch)`, and `close()`. Each of these gives one, or nil and a message.

local function open_db(path, shards)
  local found, FollowerDb = pcall(require, "tidemark.follower_db")
  if not found then
    return nil, "--db needs the module tidemark.sqlite: install the rock tidemark-sqlite, or libsqlite3-dev and run make"
  end
  local db, message = FollowerDb.open(path, shards)
  if not db then
    return nil, message
  end
  local made
  made, message = db:exec(TABLE)
  if not made then
    db:close()
    return nil, message
  end
  local function insert(connection, record, seqno, shard)
    assert(connection:exec("INSERT INTO records VALUES (?, ?, ?)", shard, seqno, record))
  end
  return {
    state = db:state(),
    apply = function(batch)
      return db:apply(batch, function(connection, record, seqno)
        insert(connection, record, seqno, batch.shard)
      end)
    end,
    close = function()
      db:close()
    end,
  }
end

-- Writes the records, one a line.
local function write_records(file, batch)
  for _, record in batch:records() do
    local ok, message = file:write(record, "\n")
    if not ok then
      return nil, message
    end
  end
  return true
end

local function print_batch(batch)
  local ok, message = write_records(io.stdout, batch)
  if ok then
    ok, message = io.stdout:flush()
  end
  if not ok then
    signals.stopped = true -- nobody reads any more
    return nil, message
  end
  return true
end

local function run_command(command, batch)
  local environment = ("export TIDEMARK_SHARD=%d TIDEMARK_FIRST_SEQNO=%d TIDEMARK_LAST_SEQNO=%d\n"):format(
    batch.shard, batch.first_seqno, batch.last_seqno)
  local pipe, message = io.popen(environment .. command, "w")
  if not pipe then
    return nil, message
  end
  write_records(pipe, batch) -- a command may end before it has read all of it: its exit code tells
  local ok, how, code = pipe:close()
  if not ok then
    return nil, ("the command ended with %s %d"):format(how == "exit" and "exit code" or how, code)
  end
  return true
end

local function open_state(path, shards, options)
  local state, message = ReplicationState.open(path, shards)
  if not state then
    return nil, message
  end
  return {
    state = state,
    apply = options.exec and function(batch)
      return run_command(options.exec, batch)
    end or print_batch,
    close = function()
      state:close()
    end,
  }
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

-- Applied, head and lag over all shards; nil where a head is not known.
local function totals(status)
  local applied, head = 0, 0
  for _, shard in pairs(status) do
    applied = applied + shard.applied
    head = head and shard.head and head + shard.head
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
    if shard.state == "catching_up" or shard.lag ~= 0 and shard.state == "live" then
      return false
    end
  end
  return true
end

-- Runs until a signal, a stop of all shards or, with --once, the end of the log.
local function run(follower, options)
  local progress = terminal.progress()
  while not signals.poll() do
    local applied = follower:step(SLICE)
    if not applied then
      break
    end
    local status
    progress:show(function()
      status = status or follower:status()
      return progress_line(status)
    end)
    if options.once and applied == 0 then
      status = status or follower:status()
      if has_caught_up(status) then
        break
      end
    end
  end
  progress:finish()
end

local function report(status)
  local shards, batches, skipped, stopped = {}, 0, 0, {}
  for shard, entry in pairs(status) do
    shards[#shards + 1] = shard
    batches, skipped = batches + entry.batches_applied, skipped + entry.batches_skipped
  end
  table.sort(shards)
  for _, shard in ipairs(shards) do
    local entry = status[shard]
    if entry.state ~= "live" and entry.state ~= "catching_up" then
      stopped[#stopped + 1] = ("shard %d has stopped (%s, %s): %s"):format(shard, entry.state, entry.code, entry.error)
    end
  end
  io.stderr:write(("%s; %d batches in this run, %d skipped\n"):format(progress_line(status), batches, skipped))
  return stopped
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
return function(options)
  local wrong = check(options)
  if wrong then
    return 2, wrong
  end
  local source, message = Wal.source(options.dir)
  if not source then
    return 1, message
  end
  local sink
  if options.db then
    sink, message = open_db(options.db, source:shards())
  else
    sink, message = open_state(options.state, source:shards(), options)
  end
  if not sink then
    source:close()
    return 1, message
  end
  signals.take()
  local follower
  follower, message = Follower.new {
    state = sink.state,
    source = source,
    apply = sink.apply,
    shards = source:shards(),
    log = function(text)
      if not signals.stopped then
        io.stderr:write("tidemark: ", text, "\n")
      end
    end,
  }
  local exit_code = 1
  if follower then
    run(follower, options)
    follower:stop()
    local stopped = report(follower:status())
    exit_code, message = #stopped > 0 and 3 or 0, #stopped > 0 and table.concat(stopped, "\ntidemark: ") or nil
    follower:close()
  end
  sink.close()
  source:close()
  return exit_code, message
end
