--- tidemark reset: lowers the progress of a follower, so that it applies the records after that again.

local ReplicationState = require "tidemark.replication_state"
local databases = require "tidemark.cli.databases"
local terminal = require "tidemark.cli.terminal"

local HEADS = "TMLG" -- how the note of a log's heads begins

local FIND = "SELECT 1 FROM records WHERE shard = ? AND seqno > ? LIMIT 1"
local DELETE = "DELETE FROM records WHERE shard = ? AND seqno > ?"

-- ---- what is reset: {file =, marks =, check =, reset =, close =}; what opens one gives it, or nil, message, code ----

-- The marks of a handle that only reads, which is closed; or nil and a message.
local function marks_of(handle, state, path)
  local marks = state:snapshot()
  handle:close()
  if not next(marks) then
    return nil, path .. ": no follower keeps its progress there, or it has applied nothing yet"
  end
  return marks
end

local function is_heads(state)
  for shard in pairs(state:snapshot()) do
    local note = state:note(shard)
    if note and note:sub(1, #HEADS) == HEADS then
      return true
    end
  end
  return false
end

-- It is read first, for what opens it to write would make what is not there.
local function open_state(path)
  local state, message, code = ReplicationState.open(path, nil, { readonly = true })
  if not state then
    return nil, message, code
  elseif is_heads(state) then
    state:close()
    return nil, path .. ": has the heads of a log: give the file of a follower"
  end
  local marks
  marks, message = marks_of(state, state, path)
  if not marks then
    return nil, message
  end
  state, message, code = ReplicationState.open(path, {})
  if not state then
    return nil, message, code
  end
  return {
    file = path,
    marks = state:snapshot(),
    check = function(shard, seqno)
      local locked, why, word = state:lock_shard(shard)
      if not locked then
        return nil, why, word
      end
      state:unlock_shard(shard)
      return state:__can_reset(shard, seqno)
    end,
    reset = function(shard, seqno)
      return state:reset(shard, seqno)
    end,
    close = function()
      state:close()
    end,
  }
end

-- It is read first, for what opens it to write would make the tables.
local function open_database(path, wanted)
  local db, message, code = databases.look(path)
  if not db then
    return nil, message, code
  end
  local marks
  marks, message = marks_of(db, db:state(), path)
  if not marks then
    return nil, message
  end
  local shards = {}
  for i, mark in ipairs(wanted) do
    shards[i] = mark.shard
  end
  db, message, code = require("tidemark.follower_db").open(path, shards)
  if not db then
    return nil, message, code
  end
  return {
    file = path,
    marks = marks,
    check = function(shard, seqno)
      local next_row, why, word, rows = db:rows(FIND, shard, seqno)
      if not next_row then
        return nil, why, word
      end
      rows:close()
      return db:__can_reset(shard, seqno)
    end,
    reset = function(shard, seqno)
      return db:reset(shard, seqno, function(connection)
        return connection:exec(DELETE, shard, seqno)
      end)
    end,
    close = function()
      db:close()
    end,
  }
end

-- ---- checking and doing ----

-- The message, with the shard, the seqno and the file.
local function describe(target, mark, message)
  message = message:gsub(("^shard %d: "):format(mark.shard), "")
  if not message:find(target.file, 1, true) then
    message = ("%s: %s"):format(target.file, message)
  end
  return ("shard %d cannot be reset to %d: %s"):format(mark.shard, mark.seqno, message)
end

-- Whether the shard can be reset: true, or nil, message, code.
local function check(target, mark)
  local applied = target.marks[mark.shard]
  if not applied then
    local shards = {}
    for shard in pairs(target.marks) do
      shards[#shards + 1] = shard
    end
    table.sort(shards)
    return nil, ("the follower does not have this shard, but %s"):format(table.concat(shards, " ")), "UNKNOWN_SHARD"
  elseif mark.seqno > applied then
    return nil, ("record %d is the last one applied"):format(applied)
  end
  return target.check(mark.shard, mark.seqno)
end

local function for_each(target, marks, f)
  for _, mark in ipairs(marks) do
    local ok, message, code = f(target, mark)
    if not ok then
      return nil, describe(target, mark, message), code
    end
  end
  return true
end

-- Resets one shard and says so: true, or nil, message, code.
local function reset(target, mark)
  local ok, message, code = target.reset(mark.shard, mark.seqno)
  if not ok then
    return nil, message, code
  end
  local _, unwritten = terminal.write(("shard %d: reset from %d to %d\n"):format(mark.shard, target.marks[mark.shard], mark.seqno))
  target.unwritten = target.unwritten or unwritten
  return true
end

-- With a state file, nobody but the user can take effects back.
local function remind(target, marks)
  for _, mark in ipairs(marks) do
    local applied = target.marks[mark.shard]
    if mark.seqno < applied then
      io.stderr:write(("shard %d: the effects of its records after %d, up to %d, are yours to take back before a follower goes on: it "
        .. "applies these records again\n"):format(mark.shard, mark.seqno, applied))
    end
  end
end

-- A shard that is given twice.
local function find_twice(marks)
  local seen = {}
  for _, mark in ipairs(marks) do
    if seen[mark.shard] then
      return mark.shard
    end
    seen[mark.shard] = true
  end
end

---@param options table of the command line
---@return integer exit_code
---@return string? message
---@return string? code
return function(options)
  local twice = find_twice(options.mark)
  if twice then
    return 2, ("shard %d is given twice"):format(twice)
  end
  local is_database = databases.is_one(options.file)
  local target, message, code = (is_database and open_database or open_state)(options.file, options.mark)
  if not target then
    return 1, message, code
  end
  local ok
  ok, message, code = for_each(target, options.mark, check)
  if ok and not is_database then
    remind(target, options.mark)
  end
  if ok then
    ok, message, code = for_each(target, options.mark, reset)
  end
  target.close()
  if not ok then
    return 1, message, code
  end
  return target.unwritten and 1 or 0, target.unwritten
end
